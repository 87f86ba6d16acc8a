"""The search that every Krylov solver here makes: solve, probe for what was missed, verify.

A small residual proves an eigenpair, not that it is one of the top k: a Krylov space from one start holds a
single vector of each eigenspace, so members of clusters are missed.  When the wanted pairs have converged
the search locks them, starts again from random vectors in their complement, and looks for anything larger.
If it finds something it goes on, with twice as many vectors; if not, it says how large a missed value
could be, and at what confidence (`spectral.solvers.certificate.Completeness`).

Problems of a batch start in lock-step, as one group; those that reach the end of a stage before the others
part from them and cost nothing more there.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol, Self

import torch
from torch import Tensor

from spectral.solvers.certificate import SLACK
from spectral.solvers.checkpoint import Checkpoint, State

WIDEST_PROBE = 16
SPANNED = 2048  # n up to which a slow search is let fill the whole space, which ends it
REFRESHES = 8
POLISHES = 3
EDGE = 3.0  # Ritz values in bases that were restarted differ by as many roundings of a product
COARSE = 1e-4  # rounding of products beyond which a longer probe shows nothing more
STAGES = ("solve", "completeness", "residuals")
INTERRUPTED = "interrupted"

Which = Literal["largest", "smallest", "magnitude"]


class Basis(Protocol):
    """What the search asks of a Krylov basis; Ritz pairs come in order of preference, the best first."""

    n: int
    norm: float

    @property
    def rounding(self) -> float:
        """Residuals below this are rounding of a product."""

    @property
    def problems(self) -> int:
        """B, the problems in lock-step."""

    @property
    def size(self) -> int:
        """Pairs in the basis."""

    @property
    def block(self) -> int:
        """Products the next expansion takes."""

    @property
    def exhausted(self) -> bool:
        """Whether the basis spans the whole space, and the Ritz pairs are exact."""

    def expand(self) -> None:
        """Multiply the next block and take it in."""

    def ritz(self) -> tuple[Tensor, Tensor]:
        """Ritz values and residuals, (B, size) each."""

    def in_next_block(self, keep: int) -> Tensor:
        """The part of the leading residuals that further expansion will reduce, (B, keep)."""

    def restart(self, keep: int) -> None:
        """Keep the leading pairs and the next block."""

    def restart_afresh(self, keep: int, block: int) -> None:
        """Keep the leading pairs, and go on from random vectors in their complement."""

    def refresh(self, keep: int, threshold: float) -> None:
        """Keep the leading pairs, their residuals measured by fresh products."""

    def unseen(self, keep: int, block: int, failure: float) -> tuple[Tensor, Tensor]:
        """The largest value seen in the complement, and a bound on all that it holds, (B,) each."""

    def resolution(self, keep: int, block: int, failure: float) -> float:
        """How far rounding keeps the bound above the value seen, about, however long the probe is."""

    def select(self, index: Tensor) -> Self:
        """The basis of some of the problems alone."""

    def state(self) -> dict[str, Tensor]:
        """All that `restored` needs."""

    def restored(self, state: dict[str, Tensor]) -> Self:
        """A basis of the same operator, selected to the problems of `state`, as it was then."""


@dataclass(frozen=True)
class Progress:
    """Where a solve stands, handed to `progress` after every test of convergence."""

    stage: str
    products: int
    wanted: int
    converged: int
    worst_residual: float
    threshold: float


@dataclass(frozen=True)
class Target:
    """Which pairs are sought, among Ritz pairs in the order of preference, and when they are good enough.

    The smallest eigenvalues of A are the largest of -A, and only those are looked for: the Ritz values here
    are those of `sign` A.  Values that a product's rounding cannot tell from `above` count as beyond it.

    k, which, above, tol: as in `spectral.solvers.lanczos.lanczos`.
    """

    k: int
    which: Which = "largest"
    above: float | None = None
    tol: float = 0.0

    @property
    def sign(self) -> float:
        """-1 where the smallest are sought."""
        return -1.0 if self.which == "smallest" else 1.0

    @property
    def magnitude(self) -> bool:
        """Whether the order is by magnitude."""
        return self.which == "magnitude"

    def level(self, rounding: float) -> float | None:
        """The height that every pair sought exceeds, where it is not their number that is given."""
        return None if self.above is None else self.sign * self.above - EDGE * rounding

    def wanted(self, theta: Tensor, rounding: float) -> int:
        """How many of the leading Ritz values (B, size) are sought."""
        level = self.level(rounding)
        if level is None:
            return min(self.k, theta.shape[-1])
        return int((self.height(theta) > level).sum(-1).max())

    def all_in_view(self, theta: Tensor, residual: Tensor, wanted: int, rounding: float) -> bool:
        """Whether there are k pairs; with `above`, whether the next pair is sure to stay below it."""
        level = self.level(rounding)
        if level is None:
            return wanted == self.k
        if wanted == theta.shape[-1]:
            return False
        return bool((self.height(theta[:, wanted]) + residual[:, wanted] <= level).all())

    def honest(self, unseen: Tensor, rounding: float) -> Tensor:
        """A bound (B,) that leaves open what it cannot tell from `above`, by lying beyond that."""
        level = self.level(rounding)
        if level is None:
            return unseen
        return torch.where(unseen > level, unseen.clamp(min=level + 2 * EDGE * rounding), unseen)

    def height(self, theta: Tensor) -> Tensor:
        """What the order is by: the value, or its magnitude."""
        return theta.abs() if self.magnitude else theta

    def threshold(self, theta: Tensor, rounding: float) -> Tensor:
        """tol max |theta| over the wanted pairs, (B, 1); not below the rounding error of a product."""
        largest = theta[:, : self.wanted(theta, rounding)].abs()
        if largest.shape[-1] == 0:
            return torch.full((len(theta), 1), math.inf, dtype=theta.dtype)
        return (self.tol * largest.amax(-1, keepdim=True)).clamp(min=rounding)

    def bar(self, theta: Tensor, residual: Tensor, wanted: int, rounding: float) -> Tensor:
        """What an eigenvalue must exceed to have been missed, (B,)."""
        level = self.level(rounding)
        if level is not None:
            return torch.full((len(theta),), level, dtype=theta.dtype)
        return self.height(theta[:, wanted - 1]) + residual[:, wanted - 1] + rounding

    def standing(self, stage: str, products: int, residual: Tensor, threshold: Tensor) -> Progress:
        """Where a solve stands that has brought the wanted pairs to residuals (B, wanted)."""
        return Progress(
            stage,
            products,
            wanted=self.k if self.above is None else residual.shape[-1],
            converged=int((residual <= threshold).sum(-1).min()),
            worst_residual=residual.max().item() if residual.numel() else 0.0,
            threshold=threshold.min().item(),
        )


@dataclass
class _Group:
    """Problems that stand at one point of the search.

    index: which problems of the batch, (b,).  stage: what comes next, one of STAGES, or "done".  block,
    failure: vectors a probe starts from, and the chance of error left to it.  probed: whether a probe has
    ended.  polishes: how often verification may still send the group back.  bar, wanted, most: of the probe
    under way: what a missed value exceeds (b,), pairs locked, products it may reach.  unseen, confidence: the
    bound (b,) on what was not seen.  before: the state as it was when the search was stopped, which is what
    is kept on disk: verifying what it had then is no step on the way.
    """

    index: Tensor
    basis: Any
    block: int
    failure: float
    stage: str = "solve"
    probed: bool = False
    polishes: int = POLISHES
    bar: Tensor | None = None
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
            bar=None if self.bar is None else self.bar[chosen],
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
        if self.bar is not None:
            tensors["bar"] = self.bar
        plain = ("block", "failure", "stage", "probed", "polishes", "wanted", "most", "confidence")
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

    unseen: the bound (B,) on what was not seen; confidence: of all of them; spent: products by purpose, the
    mean over the problems; notes for the user, with those of the whole search, `remarks`.
    """

    groups: list[_Group]
    remarks: list[str] = field(default_factory=list)

    def gather(self, part: Callable[[Any], Tensor]) -> Tensor:
        """part(basis) of every group's basis, its problems in the order of the batch."""
        index = torch.cat([g.index for g in self.groups])
        return self._ordered([part(g.basis) for g in self.groups], index)

    @property
    def unseen(self) -> Tensor:
        """See the class."""
        return self._ordered([g.unseen for g in self.groups], torch.cat([g.index for g in self.groups]))

    @property
    def confidence(self) -> float:
        """See the class."""
        return min(g.confidence for g in self.groups)

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

    @staticmethod
    def _ordered(parts: list[Tensor], index: Tensor) -> Tensor:
        return parts[0] if len(parts) == 1 else torch.cat(parts)[torch.argsort(index).to(parts[0].device)]


def search(
    basis: Basis,
    target: Target,
    *,
    limit: int | None,
    block: int,
    max_products: int,
    confidence: float,
    progress: Callable[[Progress], None] | None,
    spent: int = 0,
    checkpoint: Checkpoint | None = None,
) -> Found:
    """Bring the wanted pairs into `basis`, alone and verified; the bases' text says what stands in it then.

    Args:
        basis: at its start.
        target: what is wanted.
        limit: rows before a restart; by default four times the pairs sought, and at least 200 more.
        block: vectors a probe starts from.
        max_products: stop there, converged or not.
        confidence: of the bound on what was not seen; 0 for no probe.
        progress: called after every test of convergence.
        spent: products that brought the basis here.
        checkpoint: where the search is kept, and resumed from.

    Stopped by `max_products` or Ctrl-C, it verifies what it has; a checkpoint stays what it was at the stop,
    so that a later search goes on as if there had been none.
    """
    with checkpoint or contextlib.nullcontext():
        groups, asked = [], vars(target) | {"confidence": confidence}
        if checkpoint is not None:
            for tensors, meta in checkpoint.read(asked):
                groups.append(_Group.restored(basis, tensors, {"failure": 1 - confidence, **meta}))
        if not groups:
            groups = [_Group(torch.arange(basis.problems), basis, block, 1 - confidence)]
            groups[0].spent["solve"] = spent
        groups = _Search(target, limit, max_products, confidence, progress, checkpoint).run(groups)
        return Found(groups, [] if checkpoint is None else checkpoint.notes)


class _Search:
    """The stages, each taking a group from one to the next; problems that get there first go as a group."""

    def __init__(
        self,
        target: Target,
        limit: int | None,
        max_products: int,
        confidence: float,
        progress: Callable[[Progress], None] | None,
        checkpoint: Checkpoint | None,
    ) -> None:
        self.target, self.limit_asked, self.max_products = target, limit, max_products
        self.confidence, self.progress, self.checkpoint = confidence, progress, checkpoint
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
                threshold = target.threshold(theta, basis.rounding)
                self._tell(g, residual[:, :wanted], threshold)
                if basis.exhausted:
                    g.stage, g.confidence = "residuals", 1.0
                    g.unseen = remaining(target, theta, basis.rounding)
                    return [g]
                converged = (residual[:, :wanted] <= threshold).all(-1)
                if target.all_in_view(theta, residual, wanted, basis.rounding):
                    after = "completeness" if self.confidence and not g.probed else "residuals"
                    if converged.all():
                        g.stage = after
                        return [g]
                    if self._may_part(converged):
                        ahead, behind = g.part(converged), g.part(~converged)
                        ahead.stage = after
                        return [behind, ahead]
                    stuck = (basis.in_next_block(wanted) <= 0.3 * threshold).all(-1) | converged
                    affordable = refreshes < REFRESHES and g.products + wanted <= self.max_products
                    if affordable and stuck.all():
                        # Only what earlier probes left out of the basis stands in the way: measure it afresh.
                        refreshes += 1
                        g.spent["solve"] += wanted
                        basis.refresh(wanted, 0.3 * threshold.min().item())
                        next_test = basis.size
                        continue
                excess = (residual[:, :wanted] / threshold).max().item() if wanted else math.inf
                wait = pace.wait(basis.size, excess)
                limit = self._limit(wanted, g)
                if basis.size + basis.block > limit:
                    basis.restart(wanted + (limit - wanted - basis.block) // 2)
                    self._keep()
                next_test = min(basis.size + wait, limit - basis.block + 1)
            if self._out_of_products(g):
                g.stop(f"stopped at max_products={self.max_products}")
                return [g]
            self._expand(g)

    def _probe(self, g: _Group) -> list[_Group]:
        """Lock the wanted pairs and look for a larger eigenvalue in their complement."""
        basis, target = g.basis, self.target
        if g.bar is None:
            theta, residual = basis.ritz()
            wanted = target.wanted(theta, basis.rounding)
            bar = target.bar(theta, residual, wanted, basis.rounding)
            unseen = torch.full_like(bar, math.inf)
            basis.restart_afresh(wanted, g.block)
            long = 16 * g.block if self._blind(g) else max(64, 16 * g.block, g.spent["solve"] // 2)
            most = g.spent["completeness"] + long
            # Each further probe may fail too: halved chances keep their sum below 1 - confidence.  One more
            # is wanted where a complex pair would be parted.  A probe is under way where there is a bar.
            g.wanted, g.most, g.unseen, g.failure, g.bar = basis.size, most, unseen, g.failure / 2, bar
        nothing = torch.zeros(len(g.index), g.wanted)
        while g.spent["completeness"] + g.block <= g.most:
            if self._out_of_products(g):
                g.stop()
                break
            if basis.exhausted:  # everything is in view
                g.stage, g.bar = "solve", None
                return [g]
            self._expand(g)
            self._tell(g, nothing, torch.ones(1))
            before = g.unseen
            seen, g.unseen = basis.unseen(g.wanted, g.block, g.failure)
            missed = seen > g.bar
            if missed.any():
                parts = [g] if missed.all() else [g.part(~missed), g.part(missed)]
                wider = min(2 * g.block, WIDEST_PROBE)
                parts[-1].stage, parts[-1].bar, parts[-1].block = "solve", None, wider
                return parts
            clear = g.unseen <= g.bar
            if clear.all():
                break
            over = g.unseen - seen
            rounded = over <= 2 * basis.resolution(g.wanted, g.block, g.failure)
            if ((rounded & (before - g.unseen <= 0.1 * over)) | clear).all():
                if self._blind(g) or g.block >= min(WIDEST_PROBE, basis.n - g.wanted):
                    break
                g.block, g.bar = self._wider(g, seen), None
                return [g]
            if self._may_part(clear):
                return [g.part(~clear), self._probed(g.part(clear))]
        return [self._probed(g)]

    @staticmethod
    def _blind(g: _Group) -> bool:
        """Whether products are as coarse as half precision's: a longer probe sees no more of them."""
        return g.basis.A.eps > COARSE

    @staticmethod
    def _wider(g: _Group, seen: Tensor) -> int:
        """The narrowest block whose start holds so much of any eigenvector that rounding hides none."""
        assert g.bar is not None
        width, most = g.block, min(WIDEST_PROBE, g.basis.n - g.wanted)
        while width < most:
            width = min(2 * width, most)
            if (seen + 2 * g.basis.resolution(g.wanted, width, g.failure / 2) <= g.bar).all():
                break
        return width

    def _probed(self, g: _Group) -> _Group:
        unseen = self.target.honest(g.unseen, g.basis.rounding)
        confidence = self.confidence if torch.isfinite(unseen).all() else 0.0
        g.stage, g.probed, g.bar, g.unseen, g.confidence = "residuals", True, None, unseen, confidence
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
        threshold = self.target.threshold(theta, g.basis.rounding)
        g.spent["residuals"] += wanted
        g.basis.refresh(wanted, 0.3 * threshold.min().item())
        if g.polishes == 0 or g.notes or bool((g.basis.ritz()[1] <= threshold).all()):
            g.stage = "done"
        elif g.before is not None or g.products + g.basis.block + wanted > self.max_products:
            g.notes.append(f"stopped at max_products={self.max_products}")
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
            asked = vars(self.target) | {"confidence": self.confidence}
            self.checkpoint.write(asked, [g.state() for g in self.groups])

    def _out_of_products(self, g: _Group) -> bool:
        return g.products + g.basis.block > self.max_products

    def _limit(self, wanted: int, g: _Group) -> int:
        """Rows the basis may have before a restart, with room for what is kept and two blocks.

        In a wide block, as multiple eigenvalues take, few steps fit between restarts, and where gaps are
        small they gain nothing.  Once n products are spent, n rows are surer where they can be held.
        """
        basis = g.basis
        if self.limit_asked is None and g.products >= basis.n and basis.n <= SPANNED:
            return basis.n
        rows = self.limit_asked or max(4 * wanted, wanted + 200)
        return min(basis.n, max(rows, wanted + 3 * basis.block + 2))

    def _may_part(self, ahead: Tensor) -> bool:
        """Whether enough problems (b,) are ahead to part: a quarter, so that groups stay few."""
        share = int(ahead.sum())
        return self.target.above is None and share < len(ahead) <= 4 * share

    def _tell(self, g: _Group, residual: Tensor, threshold: Tensor) -> None:
        if self.progress is not None:
            self.progress(self.target.standing(g.stage, g.products, residual, threshold))


class _Pace:
    """When to test next: a test costs an eigenproblem, and a test too late costs products."""

    def __init__(self) -> None:
        self.size, self.height = 0, math.inf

    def wait(self, size: int, excess: float) -> int:
        """Rows to add before the next test, from the residual over its threshold, `excess`, at `size` rows.

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


def remaining(target: Target, theta: Tensor, rounding: float) -> Tensor:
    """A bound (B,) on the first eigenvalue not wanted; theta (B, n) are all, in order of preference."""
    wanted = target.wanted(theta, rounding)
    if wanted == theta.shape[-1]:
        return torch.full((len(theta),), 0.0 if target.magnitude else -math.inf, dtype=theta.dtype)
    return target.height(theta[:, wanted]) + 4 * rounding / SLACK
