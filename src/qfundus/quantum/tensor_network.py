"""The exact engine on a tensor network: the cost grows with the qubits and with what crosses between neighbours.

A state is the expectation values of strings of Paulis: they are real, and gates turn them as vectors. Each qubit is a
small matrix, from the bonds on its left to those on its right. The requested circuit has a bond a layer, and one more a
layer for its closing CX, which passes all qubits; the last layer's are moved into the observables.

The network is contracted once from the left and once from the right. Strings with a common beginning share the way from
the left, those with a common end the way from the right: all observables together cost little more than one.

A contraction is `(batch, strings, bonds)`; while a qubit is in work, its Paulis I, X, Y, Z are one more axis, the last.
"""

from collections import defaultdict
from collections.abc import Iterable
from functools import cache
from itertools import islice

import torch
from torch import nn

from qfundus.quantum.angles import AngleSums
from qfundus.quantum.gates import Gate
from qfundus.quantum.network_plan import Level, Piece, Plan, Role, Site
from qfundus.quantum.observables import cx_in_paulis


class TensorNetwork(nn.Module):
    """A circuit compiled to a tensor network: from its angles to its observables' expectation values."""

    def __init__(self, plan: Plan) -> None:
        super().__init__()
        self._plan = plan
        self.table = _TurnTable()
        self.leads = _Leads(plan.sites, self.table)
        pieces = [piece for site in plan.sites for piece in site.pieces]
        self.matrices = _Matrices(pieces, self.table)
        self._own_turns = {piece.number: self.table.place(piece.turn) for piece in pieces if piece.turn}
        self.beginnings = _Selections(plan.beginnings)
        self.ends = _Selections(plan.ends)
        self.meetings = _Meetings(plan)
        self.terms = _Terms(plan)

    def forward(self, shared: torch.Tensor, by_feature: torch.Tensor) -> torch.Tensor:
        """Return expectation values `(batch, observables)`.

        `shared` `(angles,)` are the angles by weights alone, `by_feature` `(batch, angles)` all others; radians.
        """
        turns = self.table(shared, by_feature)
        leads = self.leads(*turns)
        operators = self.matrices(turns[0])
        operators |= {number: turns[1][:, place] for number, place in self._own_turns.items()}
        from_left = self._sweep_right(leads, operators)
        from_right = self._sweep_left(leads, operators)
        values = self.terms(self.meetings(from_left, from_right), shared, by_feature)
        return values.expand(by_feature.shape[0], -1)

    def _sweep_right(self, leads: torch.Tensor, operators: dict[int, torch.Tensor]) -> list[torch.Tensor]:
        state = leads.new_ones((leads.shape[0], 1, 1))
        states = [state]
        for place, site in enumerate(self._plan.sites):
            if not self._plan.beginnings[place + 1].parents:
                break
            state = state.unsqueeze(3) * leads[:, None, None, place]
            for piece in site.pieces:
                state = _apply(piece, operators[piece.number], state)
            batch, strings, bonds, _ = state.shape
            by_pauli = state.transpose(2, 3).reshape(batch, strings * 4, bonds)
            state = by_pauli.index_select(1, self.beginnings.flat(place + 1))
            states.append(state)
        return states

    def _sweep_left(self, leads: torch.Tensor, operators: dict[int, torch.Tensor]) -> dict[int, torch.Tensor]:
        n_qubits = len(self._plan.sites)
        state = leads.new_ones((leads.shape[0], 1, 1))
        states = {n_qubits: state}
        for place in reversed(range(n_qubits)):
            if not self._plan.ends[place].parents:
                break
            chosen = self.ends.paulis(place, state.dtype)
            state = state.index_select(1, self.ends.parents(place)).unsqueeze(3) * chosen
            for piece in reversed(self._plan.sites[place].pieces):
                state = _apply_transposed(piece, operators[piece.number], state)
            state = (state * leads[:, None, None, place]).sum(dim=3)
            states[place] = state
        return states


def _apply(piece: Piece, operator: torch.Tensor, state: torch.Tensor) -> torch.Tensor:
    """Lead a contraction through a piece: `(batch, strings, bonds on the left, 4)` to bonds on the right."""
    batch, strings, bonds, _ = state.shape
    if piece.turn:
        return (state.reshape(batch, strings * bonds, 4) @ operator).view_as(state)
    if piece.order:
        axes = (0, 1, *(2 + place for place in piece.order), 2 + len(piece.order))
        state = state.reshape(batch, strings, *(4 for _ in piece.order), 4).permute(axes)
    passing = 4**piece.passing
    right = passing * operator.shape[1] // 4
    return (state.reshape(batch * strings * passing, -1 if batch else operator.shape[0]) @ operator).reshape(
        batch, strings, right, 4
    )


def _apply_transposed(piece: Piece, operator: torch.Tensor, state: torch.Tensor) -> torch.Tensor:
    """Lead a contraction through a piece the other way, from bonds on its right to bonds on its left."""
    batch, strings, bonds, _ = state.shape
    if piece.turn:
        return (state.reshape(batch, strings * bonds, 4) @ operator.transpose(1, 2)).view_as(state)
    passing = 4**piece.passing
    state = state.reshape(batch * strings * passing, operator.shape[1]) @ operator.T
    left = passing * operator.shape[0] // 4
    if piece.order:
        back = sorted(range(len(piece.order)), key=piece.order.__getitem__)
        axes = (0, 1, *(2 + place for place in back), 2 + len(back))
        state = state.reshape(batch, strings, *(4 for _ in back), 4).permute(axes)
    return state.reshape(batch, strings, left, 4)


class _TurnTable(nn.Module):
    """The matrices `(4, 4)` by which rotations turn rows of I, X, Y, Z: of shared angles, and by sample."""

    def __init__(self) -> None:
        super().__init__()
        self._places: dict[Gate, int] = {}
        self._counts = {False: 0, True: 0}
        for name in ("shared", "by_feature"):
            self.register_buffer(f"{name}_angles", torch.empty(0, dtype=torch.int64), persistent=False)
            self.register_buffer(f"{name}_basis", torch.empty(0, 3, 16), persistent=False)

    def place(self, gate: Gate) -> int:
        """Return a rotation's place among those of its sort, which it is given if it had none."""
        if gate not in self._places:
            self._places[gate] = self._counts[gate.by_feature]
            self._counts[gate.by_feature] += 1
            name = "by_feature" if gate.by_feature else "shared"
            angles, basis = self.get_buffer(f"{name}_angles"), self.get_buffer(f"{name}_basis")
            self.register_buffer(f"{name}_angles", torch.cat((angles, torch.tensor([gate.angle]))), persistent=False)
            self.register_buffer(f"{name}_basis", torch.cat((basis, _turn_basis(gate.kind)[None])), persistent=False)
        return self._places[gate]

    def forward(self, shared: torch.Tensor, by_feature: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self._matrices(shared, "shared"), self._matrices(by_feature, "by_feature")

    def _matrices(self, angles: torch.Tensor, name: str) -> torch.Tensor:
        basis = self.get_buffer(f"{name}_basis")
        chosen = angles.index_select(-1, self.get_buffer(f"{name}_angles"))
        waves = torch.stack((torch.ones_like(chosen), chosen.cos(), chosen.sin()), dim=-1)
        matrices = (waves.unsqueeze(-2) @ basis.to(waves.dtype)).squeeze(-2)
        return matrices.unflatten(-1, (4, 4))


@cache
def _turn_basis(kind: str) -> torch.Tensor:
    """The matrices that 1, the cosine and the sine of an angle are multiplied with, `(3, 16)`."""
    basis = torch.zeros((3, 4, 4))
    first, second, still = (3, 1, 2) if kind == "ry" else (1, 2, 3)  # RY turns Z to X, RZ turns X to Y
    basis[0, 0, 0] = basis[0, still, still] = 1
    basis[1, first, first] = basis[1, second, second] = 1
    basis[2, first, second], basis[2, second, first] = 1, -1
    return basis.flatten(1)


class _Indices(nn.Module):
    """Lists of places in one table that a device can hold: a list of Python's would be brought there in each step."""

    def __init__(self, lists: list[list[int]]) -> None:
        super().__init__()
        self._sizes = [len(one) for one in lists]
        flat = torch.tensor([place for one in lists for place in one], dtype=torch.int64)
        self.register_buffer("flat", flat, persistent=False)

    def forward(self) -> tuple[torch.Tensor, ...]:
        """Return each list."""
        return self.get_buffer("flat").split(self._sizes)


class _Leads(nn.Module):
    """Each qubit's state before its first bond, `(batch or 1, qubits, 4)`."""

    def __init__(self, sites: tuple[Site, ...], table: _TurnTable) -> None:
        super().__init__()
        self._own: list[bool] = []  # of each round, whether each sample has angles of its own
        chosen: list[list[int]] = []  # of each round, the qubits that are turned, and by which matrices
        for depth in range(max(len(site.lead) for site in sites)):
            for own in (False, True):
                deep = [(qubit, site.lead[depth]) for qubit, site in enumerate(sites) if depth < len(site.lead)]
                turned = [(qubit, table.place(gate)) for qubit, gate in deep if gate.by_feature == own]
                if turned:
                    self._own.append(own)
                    chosen.extend(map(list, zip(*turned, strict=True)))
        self._chosen = _Indices(chosen)
        zero = torch.tensor([1.0, 0.0, 0.0, 1.0]).repeat(1, len(sites), 1)
        self.register_buffer("zero", zero, persistent=False)

    def forward(self, shared: torch.Tensor, by_feature: torch.Tensor) -> torch.Tensor:
        batch = by_feature.shape[0] if by_feature.shape[1] else 1
        state = self.get_buffer("zero").to(shared.dtype).expand(batch, -1, -1)
        chosen = self._chosen()
        for own, qubits, turns in zip(self._own, chosen[0::2], chosen[1::2], strict=True):
            matrices = (by_feature if own else shared.unsqueeze(0)).index_select(1, turns)
            new = (state.index_select(1, qubits).unsqueeze(2) @ matrices).squeeze(2)
            whole = len(qubits) == state.shape[1]
            state = new if whole else state.index_copy(1, qubits, new.expand(batch, -1, -1))
        return state


class _Matrices(nn.Module):
    """The matrix of each piece, those of one shape made together."""

    def __init__(self, pieces: list[Piece], table: _TurnTable) -> None:
        super().__init__()
        self._groups: list[list[Piece]] = []
        chosen: list[list[int]] = []  # of each move of each group, the matrices that turn; none for a bond
        by_shape: dict[object, list[Piece]] = defaultdict(list)
        for piece in pieces:
            if not piece.turn:
                by_shape[piece.shape].append(piece)
        for group in by_shape.values():
            self._groups.append(group)
            columns = zip(*(piece.moves for piece in group), strict=True)
            chosen.extend([table.place(move.gate) for move in column if move.gate] for column in columns)
        self._chosen = _Indices(chosen)
        for kind in ("open", "close"):
            for role in ("control", "target"):
                self.register_buffer(f"{kind}_{role}", _bond(kind, role), persistent=False)

    def forward(self, turns: torch.Tensor) -> dict[int, torch.Tensor]:
        """Return matrices `(4**(closed bonds + 1), 4**(opened bonds + 1))` by their pieces' numbers."""
        made: dict[int, torch.Tensor] = {}
        chosen = iter(self._chosen())
        for group in self._groups:
            made_together = self._make(group, islice(chosen, len(group[0].moves)), turns)
            for piece, matrix in zip(group, made_together.unbind(), strict=True):
                made[piece.number] = matrix
        return made

    def _make(self, group: list[Piece], chosen: Iterable[torch.Tensor], turns: torch.Tensor) -> torch.Tensor:
        first = group[0]
        closed, count = list(first.closed), len(group)
        rows = 4 ** (len(closed) + 1)
        bonds = list(closed)  # the axes between the rows and the Paulis
        made = torch.eye(rows, dtype=turns.dtype, device=turns.device).expand(count, rows, rows)
        turned: torch.Tensor | None = None
        for move, places in zip(first.moves, chosen, strict=True):
            if move.kind == "turn":
                turn = turns.index_select(0, places)
                turned = turn if turned is None else turned @ turn
                continue
            if turned is not None:
                made, turned = (made.reshape(count, -1, 4) @ turned), None
            factor = self.get_buffer(f"{move.kind}_{move.role}").to(made.dtype)
            if move.kind == "open":
                bonds.append(move.bond)
            else:
                place = bonds.index(move.bond)
                made = made.reshape(count, rows, *(4 for _ in bonds), 4).movedim(2 + place, -2)
                bonds.remove(move.bond)
            made = made.reshape(-1, factor.shape[0]) @ factor
        if turned is not None:
            made = made.reshape(count, -1, 4) @ turned
        return made.reshape(count, rows, 4 ** (len(bonds) + 1))


@cache
def _bond(kind: str, role: Role) -> torch.Tensor:
    """CX as a sum of four products: one qubit's map, `(4, 4 values * 4)` to open, `(4 values * 4, 4)` to close.

    What CX does to both at once decides which of the four; see `observables.cx_in_paulis`.
    """
    maps = torch.zeros((4, 4, 4))  # value, Pauli before, Pauli after
    for (control, target), (new_control, new_target, sign) in cx_in_paulis().items():
        flips, moves = control in (1, 2), target in (2, 3)  # X or Y on the control, Y or Z on the target
        value = 2 * flips + moves
        if role == "target":
            # A sign that depends on the control is put on the control's map.
            maps[value, target, new_target] = -1 if flips and moves and target == 3 else 1
        else:
            own = -1 if flips and moves and target == 3 else 1
            maps[value, control, new_control] = sign * own
    return (maps.permute(1, 0, 2).reshape(4, 16) if kind == "open" else maps.reshape(16, 4)).contiguous()


class _Selections(nn.Module):
    """Levels as indices, in two tables that a device can hold."""

    def __init__(self, levels: tuple[Level, ...]) -> None:
        super().__init__()
        self._ends = [0]
        for level in levels:
            self._ends.append(self._ends[-1] + len(level.parents))
        parents = torch.tensor([parent for level in levels for parent in level.parents], dtype=torch.int64)
        paulis = torch.tensor([pauli for level in levels for pauli in level.paulis], dtype=torch.int64)
        self.register_buffer("all_parents", parents, persistent=False)
        self.register_buffer("all_flat", parents * 4 + paulis, persistent=False)
        self.register_buffer("all_paulis", torch.eye(4)[paulis].unsqueeze(1), persistent=False)

    def parents(self, place: int) -> torch.Tensor:
        """Return which string at the neighbouring cut each string goes on from."""
        return self.get_buffer("all_parents")[self._ends[place] : self._ends[place + 1]]

    def flat(self, place: int) -> torch.Tensor:
        """Return the same, counted in strings times Paulis."""
        return self.get_buffer("all_flat")[self._ends[place] : self._ends[place + 1]]

    def paulis(self, place: int, dtype: torch.dtype) -> torch.Tensor:
        """Return each string's Pauli as a row of zeros and a one, `(strings, 1, 4)`."""
        return self.get_buffer("all_paulis")[self._ends[place] : self._ends[place + 1]].to(dtype)


class _Meetings(nn.Module):
    """Strings put together from beginnings and ends."""

    def __init__(self, plan: Plan) -> None:
        super().__init__()
        self._cuts = [cut for cut, meeting in enumerate(plan.meetings) if meeting.strings]
        order: list[int] = []
        for cut in self._cuts:
            meeting = plan.meetings[cut]
            order.extend(meeting.strings)
            self.register_buffer(f"beginnings_{cut}", torch.tensor(meeting.beginnings), persistent=False)
            self.register_buffer(f"ends_{cut}", torch.tensor(meeting.ends), persistent=False)
        self.register_buffer("order", torch.tensor(order).argsort(), persistent=False)

    def forward(self, from_left: list[torch.Tensor], from_right: dict[int, torch.Tensor]) -> torch.Tensor:
        values = [
            (
                from_left[cut].index_select(1, self.get_buffer(f"beginnings_{cut}"))
                * from_right[cut].index_select(1, self.get_buffer(f"ends_{cut}"))
            ).sum(dim=2)
            for cut in self._cuts
        ]
        return torch.cat(values, dim=1).index_select(1, self.get_buffer("order"))


class _Terms(nn.Module):
    """Strings weighed and added up to observables."""

    def __init__(self, plan: Plan) -> None:
        super().__init__()
        places = {string: place for place, string in enumerate(plan.strings)}
        signs = torch.zeros((len(plan.terms), 1 + max(term.observable for term in plan.terms)))
        for row, term in enumerate(plan.terms):
            signs[row, term.observable] = term.sign
        strings = torch.tensor([places[term.paulis] for term in plan.terms])
        waves = [[*((0, gate) for gate in term.cosines), *((1, gate) for gate in term.sines)] for term in plan.terms]
        gates = list(dict.fromkeys(gate for row in waves for _, gate in row))
        self._factors = max(len(row) for row in waves)
        # Factors are counted: 1, the cosine of each gate's angle, the sine of each.
        table = [
            [1 + sine * len(gates) + gates.index(gate) for sine, gate in row] + [0] * (self._factors - len(row))
            for row in waves
        ]
        self.angles = AngleSums([[gate] for gate in gates])
        self.register_buffer("signs", signs, persistent=False)
        self.register_buffer("strings", strings, persistent=False)
        self.register_buffer("table", torch.tensor(table, dtype=torch.int64).flatten(), persistent=False)

    def forward(self, values: torch.Tensor, shared: torch.Tensor, by_feature: torch.Tensor) -> torch.Tensor:
        terms = values.index_select(1, self.get_buffer("strings"))
        if self._factors:
            angles = self.angles(shared, by_feature)
            waves = torch.cat((torch.ones_like(angles[:, :1]), angles.cos(), angles.sin()), dim=1)
            factors = waves.index_select(1, self.get_buffer("table"))
            terms = terms * factors.unflatten(1, (-1, self._factors)).prod(dim=2)
        return terms @ self.get_buffer("signs").to(terms.dtype)
