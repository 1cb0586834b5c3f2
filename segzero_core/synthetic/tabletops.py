# SPDX-License-Identifier: Apache-2.0
"""Table tops: seamless procedural textures, made once per process."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt

Texture = npt.NDArray[np.float32]

TILE_METRES = 1.0
_TEXELS = 512

# Table -> object colours that would vanish on it.
TABLES: dict[str, frozenset[str]] = {
    'oak': frozenset({'orange', 'brown'}),
    'walnut': frozenset({'black', 'brown'}),
    'linen': frozenset({'white'}),
    'slate': frozenset({'black'}),
    'marble': frozenset({'white'}),
    'felt': frozenset({'green', 'black'}),
    'concrete': frozenset({'white'}),
}


@lru_cache(maxsize=32)
def texture(table: str, level: int = 0) -> Texture:
    """Return the (512 / 2**level,)*2 + (3,) linear-light albedo of a table, tiling seamlessly.

    Higher levels are averaged to a lower resolution, as mipmaps are, for distant cameras.
    """
    if level:
        fine = texture(table, level - 1)
        n = len(fine) // 2
        return fine.reshape(n, 2, n, 2, 3).mean(axis=(1, 3), dtype=np.float32)
    rng = np.random.Generator(np.random.PCG64([7, *table.encode()]))
    if table in ('oak', 'walnut'):
        tile = _wood(rng, dark=table == 'walnut')
    elif table in ('linen', 'felt'):
        colour = (0.62, 0.55, 0.44) if table == 'linen' else (0.055, 0.12, 0.10)
        tile = _cloth(rng, colour, weave=0.10 if table == 'linen' else 0.03)
    elif table == 'marble':
        tile = _marble(rng)
    else:
        colour = (0.075, 0.082, 0.09) if table == 'slate' else (0.36, 0.355, 0.34)
        tile = _stone(rng, colour)
    return np.clip(tile, 0.004, 1).astype(np.float32)


def sample(tile: Texture, x: npt.NDArray[np.float64], y: npt.NDArray[np.float64]) -> Texture:
    """Read a tile at metric table positions, bilinearly and periodically: (N, 3)."""
    n = len(tile)
    u, v = x * (n / TILE_METRES), y * (n / TILE_METRES)
    u0, v0 = np.floor(u), np.floor(v)
    fu, fv = (u - u0).astype(np.float32)[:, None], (v - v0).astype(np.float32)[:, None]
    # n is a power of two, so a mask wraps negative indices as well.
    i, j = u0.astype(np.int64) & (n - 1), (v0.astype(np.int64) & (n - 1)) * n
    i1, j1 = (i + 1) & (n - 1), (j + n) & (n * n - 1)
    flat = tile.reshape(-1, 3)
    top = flat.take(j + i, axis=0) * (1 - fu) + flat.take(j + i1, axis=0) * fu
    low = flat.take(j1 + i, axis=0) * (1 - fu) + flat.take(j1 + i1, axis=0) * fu
    return np.asarray(top * (1 - fv) + low * fv, np.float32)


def _noise(rng: np.random.Generator, along: float, across: float) -> npt.NDArray[np.float64]:
    """Periodic Gaussian noise of unit variance with the given correlation lengths in texels."""
    f = np.fft.fftfreq(_TEXELS)
    filt = np.exp(-2 * np.pi**2 * ((f[None, :] * along) ** 2 + (f[:, None] * across) ** 2))
    white = rng.standard_normal((_TEXELS, _TEXELS))
    smooth = np.fft.ifft2(np.fft.fft2(white) * filt).real
    return (smooth - smooth.mean()) / smooth.std()


def _wood(rng: np.random.Generator, dark: bool) -> npt.NDArray[np.float64]:
    """Planks of eight widths with grain along x and dark joints."""
    y = np.arange(_TEXELS)[:, None]
    plank = y // 64
    warp = 5.0 * _noise(rng, 90, 14)
    phase = rng.random(8)[plank] * 60
    rings = np.sin(2 * np.pi * (y + warp * 2.2 + phase) / 11.0)
    grain = 0.07 * rings + 0.07 * _noise(rng, 60, 1.2) + 0.05 * _noise(rng, 120, 6)
    tone = 1 + 0.09 * rng.standard_normal(8)[plank] + grain
    joint = 1 - 0.45 * ((y % 64) < 1)
    offset = (rng.random(8) * _TEXELS).astype(int)[plank]
    joint = joint * (1 - 0.45 * (((np.arange(_TEXELS)[None, :] + offset) % _TEXELS) < 1))
    colour = np.array((0.135, 0.066, 0.035) if dark else (0.50, 0.315, 0.165))
    return colour * (tone * joint)[..., None]


def _cloth(
    rng: np.random.Generator, colour: tuple[float, float, float], weave: float
) -> npt.NDArray[np.float64]:
    threads = 0.5 * _noise(rng, 12, 0.8) + 0.5 * _noise(rng, 0.8, 12)
    tone = 1 + weave * threads + 0.03 * _noise(rng, 60, 60)
    return np.array(colour) * tone[..., None]


def _stone(
    rng: np.random.Generator, colour: tuple[float, float, float]
) -> npt.NDArray[np.float64]:
    tone = 1 + 0.07 * _noise(rng, 30, 30) + 0.05 * _noise(rng, 5, 5) + 0.05 * _noise(rng, 1, 1)
    return np.array(colour) * tone[..., None]


def _marble(rng: np.random.Generator) -> npt.NDArray[np.float64]:
    veins = np.exp(-np.abs(_noise(rng, 45, 30) + 0.25 * _noise(rng, 8, 8)) / 0.035)
    tone = 1 - 0.22 * veins * (0.5 + 0.5 * np.tanh(_noise(rng, 70, 70)))
    tone = tone + 0.02 * _noise(rng, 20, 20)
    return np.array((0.70, 0.69, 0.67)) * tone[..., None]
