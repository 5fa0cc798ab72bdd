import socket

from qfundus.platform.ports import LOOPBACK, choose_ports, is_free


def test_a_taken_port_is_passed_over():
    with socket.socket() as taken:
        taken.bind((LOOPBACK, 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert not is_free(port)
        chosen = choose_ports({"a": port, "b": port})
    assert port not in chosen.values()
    assert len(set(chosen.values())) == 2
