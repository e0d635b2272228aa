"""Example segmentations: image, truth and predictions, before and after swaps, a row for each patient."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import ListedColormap, Normalize
from matplotlib.patches import Patch

from prrmse.figures.style import NET_NAMES, PAGE_INCHES, Drawing, colours, save, use_style

Row = tuple[str, np.ndarray, np.ndarray, Mapping[str, np.ndarray]]


def draw_examples(
    rows: Sequence[Row], classes: Mapping[int, str], net: str, source: str, settings: Drawing, out: Path
) -> None:
    """Write ``examples_NET`` as SVG and PNG.

    Args:
        rows: title, image, truth and predictions by name ``[H, W]``, of the same names in each.
        classes: label -> name of the structure.
        net: the network's name.
        source: the name of what pairs are taken from.
        settings: style.
        out: folder.
    """
    use_style(settings)
    palette = colours(list(classes.values()), settings.style.palette)
    colour_map, scale = ListedColormap(list(palette.values())), Normalize(min(classes) - 0.5, max(classes) + 0.5)
    shown = [
        (title, image, {"image": None, "truth": truth, **predictions}) for title, image, truth, predictions in rows
    ]
    columns = len(shown[0][2])
    figure, axes = plt.subplots(
        len(rows), columns, figsize=(PAGE_INCHES, 1.6 * len(rows)), layout="constrained", squeeze=False
    )
    for line, (title, image, masks) in zip(axes, shown, strict=True):
        for ax, (name, mask) in zip(line, masks.items(), strict=True):
            ax.imshow(image, cmap="gray", interpolation="nearest")
            if mask is not None:
                seen = np.ma.masked_array(mask, ~np.isin(mask, list(classes)))
                ax.imshow(seen, cmap=colour_map, norm=scale, alpha=0.55, interpolation="nearest")
            ax.set(xticks=[], yticks=[])
            ax.set_title(f"{title}\n{name}" if ax is line[0] else f"\n{name}", fontsize="small", loc="left")
    figure.suptitle(f"{NET_NAMES.get(net, net)}; pairs are taken from {source}", fontsize="medium")
    patches = [Patch(color=palette[name], alpha=0.55, label=name) for name in classes.values()]
    figure.legend(handles=patches, loc="outside lower center", ncols=4)
    save(figure, f"examples_{net}", out, settings)
