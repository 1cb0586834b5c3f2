# SPDX-License-Identifier: Apache-2.0
"""The solids of tabletop objects, with exact ray intersections and exact distances.

All lengths are metres, in the object's own frame: z up, the table at z = 0. Rays come from above
or from the table and start outside the solid. A ray parameter is a multiple of the direction
vector.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

_CHUNK = 40_000  # ray-segment pairs per batch, so that temporary arrays fit into the CPU cache
_TINY = 1e-12


class Solid(Protocol):
    """A closed surface."""

    def hit(self, origin: Floats, direction: Floats) -> Floats:
        """Return the (N,) parameters of the first hits, ``inf`` for misses.

        Args:
            origin: (N, 3) or (3,) starts, outside the solid.
            direction: (N, 3).
        """
        ...

    def surface(self, points: Floats) -> tuple[Floats, Floats]:
        """Return (N, 3) unit normals and (N,) shares of ambient light at surface points."""
        ...

    def distance(self, points: Floats) -> Floats:
        """Return the (N,) unsigned distances of (N, 3) points to the surface."""
        ...

    def reach(self, direction: Floats) -> float:
        """Return the extent from the origin along a (3,) unit vector, metres."""
        ...


@dataclass(frozen=True)
class Ball:
    """A sphere."""

    centre: tuple[float, float, float]
    radius: float

    def hit(self, origin: Floats, direction: Floats) -> Floats:
        """See ``Solid``."""
        return _sphere_hit(origin - np.asarray(self.centre), direction, self.radius)

    def surface(self, points: Floats) -> tuple[Floats, Floats]:
        """See ``Solid``."""
        return (points - np.asarray(self.centre)) / self.radius, np.ones(len(points))

    def distance(self, points: Floats) -> Floats:
        """See ``Solid``."""
        radius = np.linalg.norm(points - np.asarray(self.centre), axis=1)
        return np.abs(radius - self.radius)

    def reach(self, direction: Floats) -> float:
        """See ``Solid``."""
        return float(direction @ np.asarray(self.centre)) + self.radius


@dataclass(frozen=True)
class Cuboid:
    """A box standing on the table, centred on the origin, sides along x and y."""

    size: tuple[float, float, float]

    def hit(self, origin: Floats, direction: Floats) -> Floats:
        """See ``Solid``. The slab method (Kay and Kajiya 1986)."""
        half, local = self._centred(origin)
        safe = np.where(np.abs(direction) < _TINY, _TINY, direction)
        near = ((-np.copysign(half, safe) - local) / safe).max(axis=1)
        far = ((np.copysign(half, safe) - local) / safe).min(axis=1)
        # A shadow ray from a table point under the box has only ``far`` ahead of its start.
        return np.where((near <= far) & (far > 0), np.where(near > 0, near, far), np.inf)

    def surface(self, points: Floats) -> tuple[Floats, Floats]:
        """See ``Solid``."""
        half, local = self._centred(points)
        axis = (np.abs(local) - half).argmax(axis=1)
        rows = np.arange(len(points))
        normal = np.zeros_like(points)
        normal[rows, axis] = np.sign(local[rows, axis])
        return normal, np.ones(len(points))

    def distance(self, points: Floats) -> Floats:
        """See ``Solid``."""
        half, local = self._centred(points)
        q = np.abs(local) - half
        outside = np.linalg.norm(np.maximum(q, 0), axis=1)
        return np.where(q.max(axis=1) > 0, outside, -q.max(axis=1))

    def reach(self, direction: Floats) -> float:
        """See ``Solid``."""
        half = np.asarray(self.size) / 2
        return float(np.abs(direction) @ half + direction[2] * half[2])

    def _centred(self, points: Floats) -> tuple[Floats, Floats]:
        half = np.asarray(self.size) / 2
        return half, points - np.array([0.0, 0.0, half[2]])


class Tube:
    """A round bar bent along a polyline: balls at the corners, cylinders between them."""

    def __init__(self, path: npt.ArrayLike, radius: float) -> None:
        """Keep the (P, 3) corners and the bar's radius."""
        self.path = np.asarray(path, dtype=np.float64)
        self.radius = radius

    def hit(self, origin: Floats, direction: Floats) -> Floats:
        """See ``Solid``."""
        best = np.full(len(direction), np.inf)
        for corner in self.path:
            best = np.minimum(best, _sphere_hit(origin - corner, direction, self.radius))
        for start, step in zip(self.path[:-1], np.diff(self.path, axis=0), strict=True):
            length = np.linalg.norm(step)
            axis = step / length
            o_along, d_along = (origin - start) @ axis, direction @ axis
            o_across = origin - start - o_along[..., None] * axis
            t = _sphere_hit(o_across, direction - d_along[:, None] * axis, self.radius)
            with np.errstate(invalid='ignore'):
                along = o_along + t * d_along
            best = np.where((along >= 0) & (along <= length), np.minimum(best, t), best)
        return best

    def surface(self, points: Floats) -> tuple[Floats, Floats]:
        """See ``Solid``."""
        offset = self._to_axis(points)
        which = (offset * offset).sum(-1).argmin(axis=1)
        nearest = offset[np.arange(len(points)), which]
        return nearest / np.linalg.norm(nearest, axis=1, keepdims=True), np.ones(len(points))

    def distance(self, points: Floats) -> Floats:
        """See ``Solid``."""
        to_axis = np.linalg.norm(self._to_axis(points), axis=-1).min(axis=1)
        return np.abs(to_axis - self.radius)

    def reach(self, direction: Floats) -> float:
        """See ``Solid``."""
        return float((self.path @ direction).max()) + self.radius

    def _to_axis(self, points: Floats) -> Floats:
        """(N, P - 1, 3) vectors from the nearest point of each piece of the path."""
        start, step = self.path[:-1], np.diff(self.path, axis=0)
        offset = points[:, None, :] - start
        along = np.clip((offset * step).sum(-1) / (step * step).sum(-1), 0, 1)
        return offset - along[..., None] * step


class Revolved:
    """A solid of revolution, a polyline rotated about z: cans, bottles, hollow mugs, rings.

    Each segment of the profile is a cone frustum, cylinder or flat annulus with a closed-form
    intersection. The nearest surface point lies in the point's own meridional half-plane, so
    distances are exact 2-D distances to the profile.
    """

    def __init__(
        self, profile: npt.ArrayLike, light: npt.ArrayLike | None = None, crease: float = 40.0
    ) -> None:
        """Keep the profile.

        Args:
            profile: (P, 2) corners (radius, z), ordered so that the outside is to the right of
                the path (a can: bottom centre, bottom rim, top rim, top centre).
            light: (P,) ambient light at each corner, for cavities; all ones by default.
            crease: Corners sharper than this many degrees are shaded as edges.
        """
        self.profile = np.asarray(profile, dtype=np.float64)
        ones = np.ones(len(self.profile))
        self._light = ones if light is None else np.asarray(light, dtype=np.float64)
        self._normals = _corner_normals(self.profile, crease)
        step = np.diff(self.profile, axis=0)
        flat = np.abs(step[:, 1]) < 1e-9
        # Rays come from above: a flat piece that faces down is never hit first.
        self._caps = np.flatnonzero(flat & (step[:, 0] < 0))
        self._walls = np.flatnonzero(~flat)

    def hit(self, origin: Floats, direction: Floats) -> Floats:
        """See ``Solid``."""
        size = max(1, _CHUNK // len(self.profile))
        t = np.empty(len(direction))
        for first in range(0, len(direction), size):
            rows = slice(first, first + size)
            start = origin if origin.ndim == 1 else origin[rows]
            t[rows] = self._hit(np.atleast_2d(start), direction[rows])
        return t

    def _hit(self, o: Floats, d: Floats) -> Floats:
        # Segments run down the rows, rays along the columns.
        r0, z0 = self.profile[self._walls].T[..., None]
        r1, z1 = self.profile[self._walls + 1].T[..., None]
        slope = (r1 - r0) / (z1 - z0)
        low, high = np.minimum(z0, z1), np.maximum(z0, z1)
        (ox, oy, oz), (dx, dy, dz) = o.T, d.T
        # |(o + t d) across z|^2 = (radius there)^2, as a t^2 + 2 b t + c = 0.
        radius, widening = r0 + slope * (oz - z0), slope * dz
        a = (dx * dx + dy * dy) - widening**2
        b = (ox * dx + oy * dy) - widening * radius
        c = (ox * ox + oy * oy) - radius**2
        best = np.full(len(d), np.inf)
        with np.errstate(invalid='ignore', divide='ignore'):
            q = -(b + np.copysign(np.sqrt(b * b - a * c), b))
            for t in (q / a, c / q):
                z = oz + t * dz
                t = np.where((z >= low) & (z <= high) & (t > 0), t, np.inf)
                best = np.minimum(best, t.min(axis=0))
            for cap in self._caps:
                (outer, level), (inner, _) = self.profile[cap], self.profile[cap + 1]
                t = (level - oz) / dz
                rho2 = (ox + t * dx) ** 2 + (oy + t * dy) ** 2
                on_it = (rho2 >= inner**2) & (rho2 <= outer**2) & (t > 0)
                best = np.where(on_it, np.minimum(best, t), best)
        return best

    def surface(self, points: Floats) -> tuple[Floats, Floats]:
        """See ``Solid``."""
        gap, along = self._to_profile(points)
        segment = gap.argmin(axis=0)
        u = along[segment, np.arange(len(points))]
        ends = self._normals[segment]
        n = ends[:, 0] * (1 - u)[:, None] + ends[:, 1] * u[:, None]
        n /= np.hypot(*n.T)[:, None]
        outward = points[:, :2] / np.maximum(np.hypot(*points[:, :2].T), _TINY)[:, None]
        light = self._light[segment] * (1 - u) + self._light[segment + 1] * u
        return np.column_stack([outward * n[:, :1], n[:, 1]]), light

    def distance(self, points: Floats) -> Floats:
        """See ``Solid``."""
        return np.sqrt(self._to_profile(points)[0].min(axis=0))

    def reach(self, direction: Floats) -> float:
        """See ``Solid``."""
        across = float(np.hypot(*direction[:2]))
        return float((self.profile @ (across, direction[2])).max())

    def _to_profile(self, points: Floats) -> tuple[Floats, Floats]:
        """Squared distances to each segment and where along it (0 to 1) they are: (P - 1, N)."""
        rho, z = np.hypot(points[:, 0], points[:, 1]), points[:, 2]
        r0, z0 = self.profile[:-1].T[..., None]
        sr, sz = np.diff(self.profile, axis=0).T[..., None]
        dr, dz = rho - r0, z - z0
        u = np.clip((dr * sr + dz * sz) / (sr * sr + sz * sz), 0, 1)
        return (dr - u * sr) ** 2 + (dz - u * sz) ** 2, u


def _sphere_hit(local: Floats, direction: Floats, radius: float) -> Floats:
    """First hits with a sphere about the origin, seen from outside; ``inf`` for misses."""
    (x, y, z), (dx, dy, dz) = local.T, direction.T
    a = dx * dx + dy * dy + dz * dz
    b = x * dx + y * dy + z * dz
    c = x * x + y * y + z * z - radius**2
    with np.errstate(invalid='ignore', divide='ignore'):
        t = (-b - np.sqrt(b * b - a * c)) / a
        return np.where(t > 0, t, np.inf)


def _corner_normals(profile: Floats, crease: float) -> Floats:
    """(P-1, 2, 2) normals (radial, z) at both ends of each segment, smoothed over soft corners."""
    step = np.diff(profile, axis=0)
    normal = np.column_stack([step[:, 1], -step[:, 0]])
    normal /= np.linalg.norm(normal, axis=1, keepdims=True)
    ends = np.stack([normal, normal], axis=1)
    soft = (normal[:-1] * normal[1:]).sum(1) > np.cos(np.radians(crease))
    mean = normal[:-1] + normal[1:]
    mean /= np.maximum(np.linalg.norm(mean, axis=1, keepdims=True), _TINY)
    ends[:-1, 1][soft] = mean[soft]
    ends[1:, 0][soft] = mean[soft]
    return ends
