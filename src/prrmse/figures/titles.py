"""Names and titles of the figures.

What the paper's figures show is not public in text form; ours under the same numbers are a reconstruction.
"""

from __future__ import annotations

from collections.abc import Iterable

FIGURES = {
    "fig03": "Fig. 3. Dice after swapping the kernel of one layer, UNet",
    "fig04": "Fig. 4. Dice after swapping the kernel of one layer, PSPNet",
    "fig05": "Fig. 5. Dice after swapping the bias of one convolution, both networks",
    "fig06": "Fig. 6. RMSE of kernels between target and sources, UNet",
    "fig07": "Fig. 7. Dice after swapping one BN parameter of one layer, UNet",
    "fig08": "Fig. 8. Dice after swapping one BN parameter of one layer, PSPNet",
    "fig09": "Fig. 9. Shift and scale that a BN swap brings, both networks",
    "fig10": "Fig. 10. RMSE of kernels between target and sources, PSPNet",
    "fig11": "Fig. 11. RMSE of kernels between all base models",
    "fig12": "Fig. 12. RMSE of kernels by layer, pairs grouped by what they share",
    "curves": "Training curves of the base models (ours)",
    "verdict": "Verdicts: which parameters can be reused (ours)",
    "transfer": "Transfer: what reuse gains (ours)",
}

# Networks whose figures the paper numbers.
NUMBERED = ("unet", "pspnet")


def figure_titles(nets: Iterable[str]) -> dict[str, str]:
    """Every figure of a run by its name: `FIGURES`, and for each network that the paper does not have two more."""
    titles = dict(FIGURES)
    for net in nets:
        if net not in NUMBERED:
            titles[f"swaps_{net}"] = f"Dice after swapping one parameter of one layer, {net}"
            titles[f"rmse_{net}"] = f"RMSE of kernels between target and sources, {net}"
    return titles
