"""Programs that run devices in processes of their own; they import nothing of qfundus."""
