"""How a circuit is contracted as a tensor network, qubit by qubit: decided once, without a number computed.

Each CX is a sum of four products of a map of its control and a map of its target: a bond of four values between two
qubits. A qubit is a few pieces in a row, each a small matrix from bonds on its left to bonds on its right.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from qfundus.quantum.gates import Gate, Gates
from qfundus.quantum.observables import Observable, Term, pull_back

_LARGEST_MATRIX = 2**14  # numbers; a qubit that would need a larger one gets several in a row

Role = Literal["control", "target"]


@dataclass(frozen=True)
class Move:
    """What a gate does to the qubit in work: turn it, open a bond to a qubit on the right, close one from the left."""

    kind: Literal["turn", "open", "close"]
    bond: int = -1
    role: Role = "control"
    gate: Gate | None = None


@dataclass
class Piece:
    """Moves that make one matrix for all samples; or one `turn` by an angle of each sample's own.

    `passing` bonds lie before those that the piece closes or opens. `order` brings bonds into that order, None where
    they are. `number` counts pieces through all sites.
    """

    moves: list[Move] = field(default_factory=list)
    turn: Gate | None = None
    number: int = 0
    passing: int = 0
    order: tuple[int, ...] | None = None

    @property
    def closed(self) -> list[int]:
        """The bonds from the left that end here."""
        return [move.bond for move in self.moves if move.kind == "close"]

    @property
    def opened(self) -> list[int]:
        """The bonds to the right that begin here."""
        return [move.bond for move in self.moves if move.kind == "open"]

    @property
    def shape(self) -> tuple[tuple[str, Role, int], ...]:
        """What two pieces share whose matrices are made together: all but the angles."""
        closed = self.closed
        return tuple((m.kind, m.role, closed.index(m.bond) if m.kind == "close" else 0) for m in self.moves)


@dataclass(frozen=True)
class Site:
    """One qubit: turns of its first state, then pieces; `bonds` are open after it."""

    lead: tuple[Gate, ...]
    pieces: tuple[Piece, ...]
    bonds: int


@dataclass(frozen=True)
class Level:
    """Strings' beginnings (or ends) at one cut: the one each goes on from, and the Pauli it adds."""

    parents: tuple[int, ...]
    paulis: tuple[int, ...]


@dataclass(frozen=True)
class Meeting:
    """Where strings are put together from a beginning and an end."""

    strings: tuple[int, ...]
    beginnings: tuple[int, ...]
    ends: tuple[int, ...]


@dataclass(frozen=True)
class Plan:
    """All of a contraction but the numbers; `beginnings`, `ends` and `meetings` by the number of qubits on the left."""

    sites: tuple[Site, ...]
    terms: tuple[Term, ...]
    strings: tuple[bytes, ...]
    beginnings: tuple[Level, ...]
    ends: tuple[Level, ...]
    meetings: tuple[Meeting, ...]

    @property
    def products(self) -> int:
        """The multiplications for one sample."""
        return sum(multiplications for multiplications, _ in self._steps())

    @property
    def numbers(self) -> int:
        """The numbers that are kept for one sample."""
        return sum(numbers for _, numbers in self._steps())

    def _steps(self) -> Iterator[tuple[int, int]]:
        for place, site in enumerate(self.sites):
            strings = len(self.beginnings[place].parents) + len(self.ends[place + 1].parents)
            for piece in site.pieces:
                rows = strings * 4 ** (piece.passing + len(piece.closed) + 1)
                yield rows * 4 ** (1 + len(piece.opened)), rows
            yield 0, strings * 4 ** (site.bonds + 1)


def plan_contraction(circuit: Gates, observables: tuple[Observable, ...]) -> Plan:
    """Decide which bonds there are, what each qubit does with them, and where each string's two halves meet."""
    gates, terms = pull_back(circuit, observables)
    strings = tuple(dict.fromkeys(term.paulis for term in terms))
    beginnings, ends, meetings = _plan_strings(strings, circuit.n_qubits)
    return Plan(tuple(_plan_sites(gates, circuit.n_qubits)), tuple(terms), strings, beginnings, ends, meetings)


def _plan_sites(gates: list[Gate], n_qubits: int) -> Iterator[Site]:
    moves: list[list[Move]] = [[] for _ in range(n_qubits)]
    for bond, gate in enumerate(gates):
        if gate.kind != "cx":
            moves[gate.qubits[0]].append(Move("turn", gate=gate))
            continue
        for role, qubit in zip(("control", "target"), gate.qubits, strict=True):
            moves[qubit].append(Move("open" if qubit == min(gate.qubits) else "close", bond, role))
    bonds: list[int] = []
    number = 0
    for row in moves:
        turns = next((place for place, move in enumerate(row) if move.kind != "turn"), len(row))
        pieces = _cut(row[turns:])
        for piece in pieces:
            passing = [bond for bond in bonds if bond not in piece.closed]
            wanted = passing + piece.closed
            piece.passing = len(passing)
            piece.order = None if wanted == bonds else tuple(bonds.index(bond) for bond in wanted)
            bonds = passing + piece.opened
            piece.number, number = number, number + 1
        yield Site(tuple(move.gate for move in row[:turns] if move.gate), tuple(pieces), len(bonds))


def _cut(moves: list[Move]) -> list[Piece]:
    """Cut a qubit's moves where a sample's own angle comes, or where one matrix would be too large."""
    pieces: list[Piece] = []
    current, size = Piece(), 16
    for move in moves:
        turns_samples = move.gate is not None and move.gate.by_feature
        larger = size * (1 if move.kind == "turn" else 4)
        if current.moves and (turns_samples or larger > _LARGEST_MATRIX):
            pieces.append(current)
            current, larger = Piece(), 16 if move.kind == "turn" else 64
        if turns_samples:
            pieces.append(Piece(turn=move.gate))
            continue
        current.moves.append(move)
        size = larger
    return [*pieces, current] if current.moves else pieces


def _plan_strings(
    strings: tuple[bytes, ...], n_qubits: int
) -> tuple[tuple[Level, ...], tuple[Level, ...], tuple[Meeting, ...]]:
    cuts = range(n_qubits + 1)
    begin = [Counter(string[:cut] for string in strings) for cut in cuts]
    end = [Counter(string[cut:] for string in strings) for cut in cuts]
    met: list[list[int]] = [[] for _ in cuts]
    for number, string in enumerate(strings):
        # What many strings share costs each of them little.
        from_left = [1 / begin[cut][string[:cut]] for cut in cuts]
        from_right = [1 / end[cut][string[cut:]] for cut in cuts]
        met[min(cuts, key=lambda cut: sum(from_left[:cut]) + sum(from_right[cut + 1 :]))].append(number)
    lefts: list[dict[bytes, int]] = [{b"": 0}, *({} for _ in range(n_qubits))]
    rights: list[dict[bytes, int]] = [*({} for _ in range(n_qubits)), {b"": 0}]
    for cut, numbers in enumerate(met):
        for string in (strings[number] for number in numbers):
            for place in range(cut + 1):
                lefts[place].setdefault(string[:place], len(lefts[place]))
            for place in range(cut, n_qubits + 1):
                rights[place].setdefault(string[place:], len(rights[place]))
    return (
        (Level((0,), (0,)), *(_level(lefts[k], lefts[k - 1], slice(-1), -1) for k in cuts[1:])),
        (*(_level(rights[k], rights[k + 1], slice(1, None), 0) for k in cuts[:-1]), Level((0,), (0,))),
        tuple(
            Meeting(
                tuple(numbers),
                tuple(lefts[cut][strings[number][:cut]] for number in numbers),
                tuple(rights[cut][strings[number][cut:]] for number in numbers),
            )
            for cut, numbers in enumerate(met)
        ),
    )


def _level(wanted: dict[bytes, int], known: dict[bytes, int], rest: slice, last: int) -> Level:
    return Level(tuple(known[string[rest]] for string in wanted), tuple(string[last] for string in wanted))
