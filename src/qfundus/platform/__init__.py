"""The embedded services: started, watched and stopped."""
