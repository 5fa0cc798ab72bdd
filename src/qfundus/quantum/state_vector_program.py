"""The passes over a state vector that a circuit takes, in their order."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from qfundus.quantum.gates import Gate, Gates

_GROUP = 4  # qubits in one matrix product: 16 x 16 keep a core busy while memory moves
_OWN = 3  # passes that RY on one qubit takes by angles of each sample's own


@dataclass
class Slice:
    """RZ and CX, as phases by parity and a linear map of basis states; then RY by qubit."""

    rows: list[int]  # the bits of the old basis state whose parity is each new bit
    phases: dict[int, list[Gate]] = field(default_factory=dict)  # RZ by the parity that it turns
    rotations: dict[int, list[Gate]] = field(default_factory=dict)  # RY by qubit


def slice_circuit(circuit: Gates) -> list[Slice]:
    """Put each gate into the first slice that comes after its qubits' earlier gates."""
    bits = basis_bits(circuit.n_qubits)
    slices = [Slice(list(bits))]
    place = [0] * circuit.n_qubits  # twice the slice of a qubit's last gate, plus one where that was RY
    for gate in circuit.gates:
        where = max(place[qubit] for qubit in gate.qubits)
        where += (gate.kind == "ry") != (where % 2)
        while len(slices) <= where // 2:
            slices.append(Slice(list(bits)))
        current = slices[where // 2]
        if gate.kind == "ry":
            current.rotations.setdefault(gate.qubits[0], []).append(gate)
        elif gate.kind == "rz":
            current.phases.setdefault(current.rows[gate.qubits[0]], []).append(gate)
        else:
            control, target = gate.qubits
            current.rows[target] ^= current.rows[control]
        for qubit in gate.qubits:
            place[qubit] = where
    return slices


def basis_bits(n_qubits: int) -> list[int]:
    """Return each qubit's bit in the number of a basis state."""
    return [1 << (n_qubits - 1 - qubit) for qubit in range(n_qubits)]


@dataclass(frozen=True)
class Permute:
    """A run of CX: permutation `place`."""

    place: int


@dataclass(frozen=True)
class Turn:
    """A run of RZ: the phases of group `group`, in place `place`."""

    group: int
    place: int


@dataclass(frozen=True)
class Rotate:
    """RY by shared angles on the window of qubits that begins with `first`: matrix `place`."""

    first: int
    place: int


@dataclass(frozen=True)
class RotateEach:
    """RY on one qubit by an angle of each sample's own: column `place`."""

    qubit: int
    place: int


Step = Permute | Turn | Rotate | RotateEach


class Program:
    """The steps of a circuit, and what each of them needs, in tables by sort."""

    def __init__(self, n_qubits: int, slices: list[Slice]) -> None:
        self.n_qubits = n_qubits
        self.window = min(_GROUP, n_qubits)
        self.windows: list[list[Gate]] = []  # RY in each place of each window
        self.own: list[list[Gate]] = []
        self.phases: dict[tuple[tuple[int, ...], bool], list[list[list[Gate]]]] = {}
        self.permutations: list[tuple[int, ...]] = []
        self.steps: tuple[Step, ...] = tuple(step for part in slices for step in self._add(part))

    def _add(self, part: Slice) -> Iterator[Step]:
        for own in (False, True):
            chosen = {mask: gates for mask, gates in sorted(part.phases.items()) if by_feature_alone(gates) == own}
            if chosen:
                turns = self.phases.setdefault((tuple(chosen), own), [])
                turns.append(list(chosen.values()))
                yield Turn(list(self.phases).index((tuple(chosen), own)), len(turns) - 1)
        if part.rows != basis_bits(self.n_qubits):
            if tuple(part.rows) not in self.permutations:
                self.permutations.append(tuple(part.rows))
            yield Permute(self.permutations.index(tuple(part.rows)))
        shared = {qubit: gates for qubit, gates in part.rotations.items() if not by_feature_alone(gates)}
        while shared:
            # The last window may reach back over qubits that are done: it turns them by nothing.
            first = min(*shared, self.n_qubits - self.window)
            yield Rotate(first, len(self.windows) // self.window)
            self.windows.extend(shared.pop(qubit, []) for qubit in range(first, first + self.window))
        for qubit, gates in part.rotations.items():
            if by_feature_alone(gates):
                yield RotateEach(qubit, len(self.own))
                self.own.append(gates)


def count_passes(circuit: Gates) -> int:
    """Return how often a forward pass reads and writes all amplitudes."""
    return len(Program(circuit.n_qubits, slice_circuit(circuit)[1:]).steps)


def weigh_passes(circuit: Gates) -> int:
    """Return what the passes take, in passes of a gather or of a matrix that all samples share."""
    steps = Program(circuit.n_qubits, slice_circuit(circuit)[1:]).steps
    return sum(_OWN if isinstance(step, RotateEach) else 1 for step in steps)


def by_feature_alone(gates: list[Gate]) -> bool:
    """Return whether an angle of these gates belongs to each sample."""
    return any(gate.by_feature for gate in gates)
