"""Components of B·A in r-space, under weights on what goes in and on what comes out. numpy only, no I/O.

Shapes as in `spectra`: A (r, n), B (m, r). A component is a pair p, q of vectors (r,) that represents B·p·qᵀ·A. Those
of one basis fulfil qᵢᵀpⱼ = δᵢⱼ: keeping the set K of them turns B·A into B·P·A with the projection P = Σ_K p·qᵀ.

A weight is given as a square root: a matrix X with r columns, where XᵀX = E[hhᵀ] for the inputs' side (h = A·x) and
E[ttᵀ] for the outputs' side (t = Bᵀ·g). With X_G·X_Cᵀ = U·S·Vᵀ the components p = X_Cᵀ·v/√s and q = X_Gᵀ·u/√s need no
inverse, and the leading k minimize ‖X_G·(I − P)·X_Cᵀ‖_F over all factors of rank k (Eckart & Young 1936), also over
those that lie outside the spaces of B and A. With the triangles of Aᵀ and B as roots this is the SVD of B·A.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gradience.spectra import EPS, FloatArray

RIDGE = 1e-4
"""Added to a moment: this share of the mean energy of x (of g) in the directions that the factor sees, in all of them.

So prompts that never use a direction leave it cheap, and not free; a ridge that outweighs everything gives the SVD."""
RESOLVED = 1e-6
"""σ/σ₁ of a factor below which its directions count as rounding: activations are single precision."""


class Components(NamedTuple):
    """Components of one basis by falling value, balanced: ‖qᵀ·A‖ = ‖B·p‖.

    p, q: (r, k), one component a column; k < r if B·A has a lower rank than its factors.
    values: (k,), what each adds to ‖X_G·X_Cᵀ‖_F², as its root.
    """

    p: FloatArray
    q: FloatArray
    values: FloatArray

    def ordered(self, order: NDArray[np.intp]) -> Components:
        """The same components in another order."""
        return Components(self.p[:, order], self.q[:, order], self.values[order])


def root(moment: FloatArray, triangle: FloatArray, ridge: float = RIDGE) -> FloatArray:
    """A matrix X, (k, r), with XᵀX = moment + λ·triangleᵀ·triangle, only on the row space of the factor.

    moment: (r, r), E[hhᵀ] or E[ttᵀ].   triangle: R of Aᵀ or of B.   ridge: λ is this share of the mean energy that the
    moment has for each orthonormal direction of the factor.
    """
    _, values, directions = np.linalg.svd(triangle)
    resolved = values > RESOLVED * values.max(initial=0.0)
    values, directions = values[: len(resolved)][resolved], directions[: len(resolved)][resolved]
    if not len(values):
        return np.zeros((0, triangle.shape[1]))
    inside = directions @ moment @ directions.T
    energy = float(
        (np.diagonal(inside).clip(min=0.0) / np.square(values)).mean()
    )  # rounding may leave less than 0
    weights, vectors = np.linalg.eigh((inside + inside.T) / 2)
    within = np.sqrt(weights.clip(min=0.0))[:, None] * vectors.T
    extended = np.vstack([within, math.sqrt(ridge * energy) * np.diag(values)])
    return np.asarray(np.linalg.qr(extended, mode="r") @ directions, dtype=np.float64)


def components(
    root_in: FloatArray, root_out: FloatArray, triangle_A: FloatArray, triangle_B: FloatArray
) -> Components:
    """The components whose leading k are the best for every k under these weights.

    triangle_A, triangle_B: R of Aᵀ and of B; they balance the two sides, and as roots they give the SVD of B·A.
    """
    left, values, right = np.linalg.svd(root_out @ root_in.T, full_matrices=False)
    real = values > 8 * EPS * values.max(initial=0.0)
    p = root_in.T @ right[real].T
    q = root_out.T @ left[:, real]
    sizes = np.linalg.norm(triangle_B @ p, axis=0), np.linalg.norm(triangle_A @ q, axis=0)
    # qᵀp is s before this and 1 after it.
    balance = np.sqrt(np.divide(sizes[1], sizes[0], out=np.ones_like(sizes[0]), where=sizes[0] > 0))
    scale = np.sqrt(values[real])
    return Components(p * balance / scale, q / balance / scale, values[real])


def lost_energies(basis: Components, triangle_A: FloatArray, triangle_B: FloatArray) -> FloatArray:
    """‖B·(I − P)·A‖_F² of the projection P on the leading k components, for k = 0 … all of them.

    Under weights it need not fall with each component, and the first may leave more than there was.
    """
    inputs, outputs = triangle_A @ basis.q, triangle_B @ basis.p
    # What the components from k on come to: the sum over pairs of them of (pᵢᵀBᵀBpⱼ)·(qᵢᵀAAᵀqⱼ).
    pairs = (outputs.T @ outputs) * (inputs.T @ inputs)
    suffixes = np.cumsum(np.cumsum(pairs[::-1, ::-1], axis=0), axis=1).diagonal()[::-1]
    return np.append(suffixes, 0.0).clip(min=0.0)
