"""The search that every Krylov solver here makes: solve, probe for what was missed, verify.

A small residual proves an eigenpair, not that it is one of the top k: a Krylov space from one start holds a
single vector of each eigenspace, so members of clusters are missed.  When the wanted pairs have converged
the search locks them, starts again from random vectors in their complement, and looks for anything larger.
If it finds something it goes on, with twice as many vectors; if not, it says how large a missed value
could be, and at what confidence (`spectral.solvers.found.Completeness`).

Problems of a batch start in lock-step, as one group; those that reach the end of a stage before the others
part from them and cost nothing more there.
"""

from __future__ import annotations

import contextlib
import math
from abc import abstractmethod
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from spectral.linalg.blocks import first_block, stream
from spectral.linalg.golub_kahan import GolubKahanBasis
from spectral.linalg.krylov import KrylovBasis
from spectral.operators.base import LinearOperator
from spectral.solvers.checkpoint import Checkpoint, State
from spectral.solvers.control import Control
from spectral.solvers.found import Completeness
from spectral.solvers.method import FoundT, Method
from spectral.solvers.target import Target

WIDEST_PROBE = 16
SPANNED = 2048  # n up to which a slow search is let fill the whole space, which ends it
REFRESHES = 8
POLISHES = 3
COARSE = 1e-4  # rounding of products beyond which a longer probe shows nothing more
STAGES = ("solve", "completeness", "residuals")
INTERRUPTED = "interrupted"


Basis = KrylovBasis | GolubKahanBasis
"""What is searched: Ritz pairs come in order of preference, the best first."""


@dataclass
class _Group:
    """Problems that stand at one point of the search.

    index: which problems of the batch, (b,). stage: what comes next, one of STAGES, or "done". block,
    failure: vectors a probe starts from, and the chance of error left to it. probed: whether a probe has
    ended. misses: probes that found something. polishes: how often verification may still send the group
    back. threshold, wanted, most: of the probe under way: what a missed value exceeds (b,), pairs locked,
    products it may reach. unseen, confidence: the bound (b,) on what was not seen. before: the state as it
    was when the search was stopped, which is what is kept on disk: verifying what it had then is no step on
    the way.
    """

    index: Tensor
    basis: Any
    block: int
    failure: float
    stage: str = "solve"
    probed: bool = False
    misses: int = 0
    polishes: int = POLISHES
    threshold: Tensor | None = None
    wanted: int = 0
    most: int = 0
    unseen: Tensor = field(default_factory=lambda: torch.empty(0))
    confidence: float = 0.0
    spent: dict[str, int] = field(default_factory=lambda: dict.fromkeys(STAGES, 0))
    notes: list[str] = field(default_factory=list)
    before: State | None = None

    def __post_init__(self) -> None:
        if not len(self.unseen):
            self.unseen = torch.full((len(self.index),), math.inf, dtype=torch.float64)

    @property
    def products(self) -> int:
        """Products so far, for each problem."""
        return sum(self.spent.values())

    def part(self, chosen: Tensor) -> _Group:
        """The group of the problems chosen, a mask (b,)."""
        return replace(
            self,
            index=self.index[chosen],
            basis=self.basis.select(chosen.nonzero().squeeze(-1)),
            threshold=None if self.threshold is None else self.threshold[chosen],
            unseen=self.unseen[chosen],
            spent=dict(self.spent),
            notes=list(self.notes),
        )

    def stop(self, *notes: str) -> None:
        """Leave the search as it stands, to be verified and marked."""
        self.before = self.state()
        self.stage = "residuals"
        self.notes.extend(notes)

    def state(self) -> State:
        """Tensors and JSON values, from which `restored` makes the group again; as before a stop."""
        if self.before is not None:
            return self.before
        tensors = {f"basis.{name}": t for name, t in self.basis.state().items()}
        tensors |= {"index": self.index, "unseen": self.unseen}
        if self.threshold is not None:
            tensors["threshold"] = self.threshold
        plain = ("block", "failure", "stage", "probed", "misses", "polishes", "wanted", "most", "confidence")
        return tensors, {name: getattr(self, name) for name in plain} | {"spent": dict(self.spent)}

    @classmethod
    def restored(cls, basis: Basis, tensors: dict[str, Tensor], meta: dict[str, Any]) -> _Group:
        """The group that `state` told of, on a basis of the same operator; at its start what it left out."""
        held = {name.removeprefix("basis."): t for name, t in tensors.items() if name.startswith("basis.")}
        own: dict[str, Any] = {name: t for name, t in tensors.items() if not name.startswith("basis.")}
        if meta.get("stage") == "done":  # products are not kept: they are formed afresh
            meta = meta | {"stage": "residuals"}
        return cls(basis=basis.select(own["index"]).restored(held), **own, **meta)


@dataclass(frozen=True)
class Found:
    """How a search ended.

    spent: products by purpose, the mean over the problems; notes for the user, with those of the whole
    search, `remarks`.
    """

    groups: list[_Group]
    remarks: list[str] = field(default_factory=list)

    def rows(self, name: str) -> Tensor:
        """The rows that count of every group's basis, its problems in the order of the batch."""
        return self._ordered([getattr(g.basis, name)[:, : g.basis.size] for g in self.groups])

    def told(self, sign: float = 1.0) -> dict[str, Any]:
        """The fields that all results of solvers have, of -A where sign is -1."""
        unseen = sign * self._ordered([g.unseen for g in self.groups]).real
        confidence, spent = min(g.confidence for g in self.groups), self.spent
        completeness = Completeness(unseen, confidence, spent["completeness"])
        return {"completeness": completeness, "spent": spent, "norm": self.norm, "notes": self.notes}

    @property
    def spent(self) -> dict[str, int]:
        """See the class."""
        problems = sum(len(g.index) for g in self.groups)
        totals = {stage: sum(len(g.index) * g.spent[stage] for g in self.groups) for stage in STAGES}
        return {stage: math.ceil(total / problems) for stage, total in totals.items()}

    @property
    def norm(self) -> float:
        """The largest |A x| seen for a unit x."""
        return max(g.basis.norm for g in self.groups)

    @property
    def notes(self) -> list[str]:
        """See the class."""
        return list(dict.fromkeys([*(note for g in self.groups for note in g.notes), *self.remarks]))

    def _ordered(self, parts: list[Tensor]) -> Tensor:
        if len(parts) == 1:
            return parts[0]
        order = torch.argsort(torch.cat([g.index for g in self.groups]))
        return torch.cat(parts)[order.to(parts[0].device)]


@dataclass(frozen=True, eq=False)
class KrylovMethod(Method[FoundT]):
    """A method that searches a Krylov basis: all but the basis, and how what was found is told.

    Attributes:
        block, basis: as in `Lanczos`.
    """

    keeps: ClassVar[bool] = True

    block: int = 1
    basis: int | None = None

    @abstractmethod
    def _begun(self, A: LinearOperator, target: Any, first: Tensor, generator: torch.Generator) -> Basis:
        """The basis of A at its start, from rows `first` (B, block, n)."""

    @abstractmethod
    def _told(self, A: LinearOperator, target: Any, found: Found) -> FoundT:
        """What was found, of A."""

    def solve(self, A: LinearOperator, target: Target, control: Control) -> FoundT:
        """What is sought of A, with a probe for what was missed; see `Method.solve`.

        `control.start` holds vectors of A's domain.
        """
        generator, block = stream(control.seed), min(self.block, *A.shape)
        first = first_block(A, block, control.start, generator)
        basis = self._begun(A, target, first, generator)
        kept = None if control.checkpoint is None else Checkpoint(control.checkpoint, A, self.name)
        return self._told(
            A, target, search(basis, target, control, block=block, limit=self.basis, checkpoint=kept)
        )


def search(
    basis: Basis,
    target: Target,
    control: Control,
    *,
    block: int,
    limit: int | None = None,
    spent: int = 0,
    checkpoint: Checkpoint | None = None,
) -> Found:
    """Bring the wanted pairs into `basis`, alone and verified; the bases' text says what stands in it then.

    Args:
        basis: at its start.
        target: what is wanted.
        control: how exactly, and how far; its start, seed and checkpoint are those who made the basis used.
        block: vectors a probe starts from.
        limit: rows before a restart; by default four times the pairs sought, and at least 200 more.
        spent: products that brought the basis here.
        checkpoint: where the search is kept, and resumed from.

    Stopped by `max_products` or Ctrl-C, it verifies what it has; a checkpoint stays what it was at the stop,
    so that a later search goes on as if there had been none.
    """
    failure = 1 - control.confidence
    with checkpoint or contextlib.nullcontext():
        groups = []
        if checkpoint is not None:
            for tensors, meta in checkpoint.read(_question(target, control)):
                groups.append(_Group.restored(basis, tensors, {"failure": failure, **meta}))
        if not groups:
            groups = [_Group(torch.arange(basis.problems), basis, block, failure)]
            groups[0].spent["solve"] = spent
        groups = _Search(target, control, block, limit, checkpoint).run(groups)
        return Found(groups, [] if checkpoint is None else checkpoint.notes)


def _question(target: Target, control: Control) -> dict[str, Any]:
    """What a search kept on disk was to find."""
    return vars(target) | {"tol": control.tol, "confidence": control.confidence}


class _Search:
    """The stages, each taking a group from one to the next; problems that get there first go as a group."""

    def __init__(
        self, target: Target, control: Control, block: int, limit: int | None, checkpoint: Checkpoint | None
    ) -> None:
        self.target, self.control, self.checkpoint = target, control, checkpoint
        self.block, self.limit = block, limit
        self.groups: list[_Group] = []

    def run(self, groups: list[_Group]) -> list[_Group]:
        """Take every group to its end; interrupted, each stops where it is, and a second time all does."""
        self.groups = groups
        try:
            self._run()
        except KeyboardInterrupt:
            for g in self.groups:
                if g.stage != "done":
                    g.stop(INTERRUPTED)
            self._keep()
            self._run()
        return self.groups

    def _run(self) -> None:
        stages = {"solve": self._solve, "completeness": self._probe, "residuals": self._verify}
        while pending := [g for g in self.groups if g.stage != "done"]:
            group = pending[-1]
            parts = stages[group.stage](group)
            self.groups = [g for g in self.groups if g is not group] + parts
            self._keep()

    # The stages

    def _solve(self, g: _Group) -> list[_Group]:
        """Expand the basis until every wanted pair has converged."""
        basis, target = g.basis, self.target
        next_test, refreshes, pace = 1, 0, _Pace()
        while True:
            if basis.exhausted or basis.size >= next_test:
                theta, residual = basis.ritz()
                wanted = target.wanted(theta, basis.rounding)
                tolerance = target.tolerance(theta, self.control.tol, basis.rounding)
                self._report(g, residual[:, :wanted], tolerance)
                if basis.exhausted:
                    g.stage, g.confidence = "residuals", 1.0
                    g.unseen = basis.beyond(wanted, target.remaining(theta, basis.rounding))
                    return [g]
                converged = (residual[:, :wanted] <= tolerance).all(-1)
                if target.all_in_view(theta, residual, wanted, basis.rounding):
                    after = "completeness" if self.control.confidence and not g.probed else "residuals"
                    if converged.all():
                        g.stage = after
                        return [g]
                    if self._may_part(converged):
                        ahead, behind = g.part(converged), g.part(~converged)
                        ahead.stage = after
                        return [behind, ahead]
                    stuck = (basis.in_next_block(wanted) <= 0.3 * tolerance).all(-1) | converged
                    affordable = refreshes < REFRESHES and g.products + wanted <= self.control.budget
                    if affordable and stuck.all():
                        # Only what earlier probes left out of the basis stands in the way: measure it afresh.
                        refreshes += 1
                        g.spent["solve"] += wanted
                        basis.refresh(wanted, 0.3 * tolerance.min().item())
                        next_test = basis.size
                        continue
                excess = (residual[:, :wanted] / tolerance).max().item() if wanted else math.inf
                wait = pace.wait(basis.size, excess)
                basis.most = limit = self._limit(wanted, g)
                if basis.size + basis.block > limit:
                    basis.restart(wanted + (limit - wanted - basis.block) // 2)
                    self._keep()
                next_test = min(basis.size + wait, limit - basis.block + 1)
            if self._out_of_products(g):
                g.stop(f"stopped at max_products={self.control.budget}")
                return [g]
            self._expand(g)

    def _probe(self, g: _Group) -> list[_Group]:
        """Lock the wanted pairs and look for a larger eigenvalue in their complement."""
        basis, target = g.basis, self.target
        if g.threshold is None:
            theta, residual = basis.ritz()
            wanted = target.wanted(theta, basis.rounding)
            threshold = target.threshold(theta, residual, wanted, basis.rounding)
            unseen = torch.full_like(threshold, math.inf)
            if wanted < theta.shape[-1] and not g.spent["completeness"] and not self._blind(g):
                # The next Ritz value is near what will be seen, and tells whether rounding blinds a start.
                # No wider than twice: what was missed, if anything, narrow starts find with fewer products.
                next_one = target.height(theta[:, wanted])
                if self._wide_enough(g, next_one, threshold, g.failure / 2) == 2 * g.block:
                    g.block *= 2
            basis.restart_afresh(wanted, g.block)
            long = 16 * g.block if self._blind(g) else max(64, 16 * g.block, g.spent["solve"] // 2)
            most = g.spent["completeness"] + long
            # Each further probe may fail too: halved chances keep their sum below 1 - confidence.  One more
            # is wanted where a complex pair would be parted.  A threshold tells that a probe is under way.
            g.wanted, g.most, g.unseen, g.failure = basis.size, most, unseen, g.failure / 2
            g.threshold = threshold
        nothing = torch.zeros(len(g.index), g.wanted)
        while g.spent["completeness"] + g.block <= g.most:
            if self._out_of_products(g):
                g.stop(f"stopped at max_products={self.control.budget}, before all was probed")
                break
            if basis.exhausted:  # everything is in view
                g.stage, g.threshold = "solve", None
                return [g]
            self._expand(g)
            self._report(g, nothing, torch.ones(1))
            before = g.unseen
            seen, g.unseen = basis.unseen(g.wanted, g.block, g.failure)
            missed = seen > g.threshold
            if missed.any():
                parts = [g] if missed.all() else [g.part(~missed), g.part(missed)]
                late = parts[-1]
                late.stage, late.threshold, late.misses = "solve", None, late.misses + 1
                late.block = min(max(late.block, self.block << late.misses), WIDEST_PROBE)
                return parts
            clear = g.unseen <= g.threshold
            if clear.all():
                break
            over = g.unseen - seen
            rounded = over <= 2 * basis.resolution(g.wanted, g.block, g.failure)
            if ((rounded & (before - g.unseen <= 0.1 * over)) | clear).all():
                if self._blind(g) or g.block >= min(WIDEST_PROBE, basis.n - g.wanted):
                    break
                wider = self._wide_enough(g, seen, g.threshold, g.failure / 2)
                g.block, g.threshold = wider or min(WIDEST_PROBE, basis.n - g.wanted), None
                return [g]
            if self._may_part(clear):
                return [g.part(~clear), self._probed(g.part(clear))]
        return [self._probed(g)]

    @staticmethod
    def _blind(g: _Group) -> bool:
        """Whether products are as coarse as half precision's: a longer probe sees no more of them."""
        return g.basis.A.eps > COARSE

    @staticmethod
    def _wide_enough(g: _Group, seen: Tensor, threshold: Tensor, failure: float) -> int | None:
        """The narrowest block, if any, with a share of any eigenvector that rounding does not hide."""
        width = g.block
        while width <= min(WIDEST_PROBE, g.basis.n - g.wanted):
            if (seen + 2 * g.basis.resolution(g.wanted, width, failure) <= threshold).all():
                return width
            width *= 2
        return None

    def _probed(self, g: _Group) -> _Group:
        unseen = self.target.honest(g.unseen, g.basis.rounding)
        confidence = self.control.confidence if torch.isfinite(unseen).all() else 0.0
        g.stage, g.probed, g.threshold, g.unseen, g.confidence = "residuals", True, None, unseen, confidence
        return g

    def _verify(self, g: _Group) -> list[_Group]:
        """Measure the wanted pairs' residuals anew, and send the group back where one is above tolerance."""
        theta, _ = g.basis.ritz()
        wanted = self.target.wanted(theta, g.basis.rounding)
        if g.probed and wanted < g.wanted:
            # A pair that the probe locked may be none of those returned, by rounding.
            beyond = torch.maximum(g.unseen, self.target.height(theta[:, wanted]))
            g.unseen = self.target.honest(beyond, g.basis.rounding)
        if wanted == 0:
            g.basis.restart(0)
            g.stage = "done"
            return [g]
        tolerance = self.target.tolerance(theta, self.control.tol, g.basis.rounding)
        g.spent["residuals"] += wanted
        g.basis.refresh(wanted, 0.3 * tolerance.min().item())
        if g.polishes == 0 or g.notes or bool((g.basis.ritz()[1] <= tolerance).all()):
            g.stage = "done"
        elif g.before is not None or g.products + g.basis.block + wanted > self.control.budget:
            g.notes.append(f"stopped at max_products={self.control.budget}")
            g.stage = "done"
        else:
            g.stage, g.probed = "solve", True
            g.polishes -= 1
        return [g]

    # What they share

    def _expand(self, g: _Group) -> None:
        g.spent[g.stage] += g.basis.block
        g.basis.expand()
        if self.checkpoint is not None and self.checkpoint.due:
            self._keep()

    def _keep(self) -> None:
        if self.checkpoint is not None:
            self.checkpoint.write(_question(self.target, self.control), [g.state() for g in self.groups])

    def _out_of_products(self, g: _Group) -> bool:
        return g.products + g.basis.block > self.control.budget

    def _limit(self, wanted: int, g: _Group) -> int:
        """Rows the basis may have before a restart, with room for what is kept and two blocks.

        In a wide block, as multiple eigenvalues take, few steps fit between restarts, and where gaps are
        small they gain nothing.  Once n products are spent, n rows are surer where they can be held.
        """
        basis = g.basis
        if self.limit is None and g.products >= basis.n and basis.n <= SPANNED:
            return basis.n
        rows = self.limit or max(4 * wanted, wanted + 200)
        return min(basis.n, max(rows, wanted + 3 * basis.block + 2))

    def _may_part(self, ahead: Tensor) -> bool:
        """Whether enough problems (b,) are ahead to part: a quarter, so that groups stay few."""
        share = int(ahead.sum())
        return self.target.above is None and share < len(ahead) <= 4 * share

    def _report(self, g: _Group, residual: Tensor, tolerance: Tensor) -> None:
        self.control.report(self.target, g.stage, g.products, residual, tolerance)


class _Pace:
    """When to test next: a test costs an eigenproblem, and a test too late costs products."""

    def __init__(self) -> None:
        self.size, self.height = 0, math.inf

    def wait(self, size: int, excess: float) -> int:
        """Rows to add before the next test, from the residual over its tolerance, `excess`, at `size` rows.

        A third of what the last two tests promise, since convergence quickens, and at most a sixteenth of the
        basis.
        """
        height = math.log(max(excess, 1.0)) if excess > 0 else 0.0
        rate = (self.height - height) / max(size - self.size, 1)
        self.size, self.height = size, height
        promised = height / rate / 3 if 0 < rate < math.inf else math.inf
        return max(1, int(min(promised, size / 16)))


def interrupted(notes: list[str]) -> bool:
    """Whether a result's notes tell of an interruption, of any of its solves."""
    return any(note.endswith(INTERRUPTED) for note in notes)
