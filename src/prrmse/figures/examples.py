"""Example segmentations: image, truth and prediction, a row for each patient."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import ListedColormap, Normalize
from matplotlib.patches import Patch

from prrmse.figures.style import NET_NAMES, Drawing, colours, save, use_style

Row = tuple[str, np.ndarray, np.ndarray, np.ndarray]


def draw_examples(rows: Sequence[Row], classes: Mapping[int, str], net: str, settings: Drawing, out: Path) -> None:
    """Write ``examples_NET`` as SVG and PNG.

    Args:
        rows: title, image, truth and prediction ``[H, W]``.
        classes: label -> name of the structure.
        net: the network's name.
        settings: style.
        out: folder.
    """
    use_style(settings)
    palette = colours(list(classes.values()), settings.style.palette)
    colour_map, scale = ListedColormap(list(palette.values())), Normalize(min(classes) - 0.5, max(classes) + 0.5)
    figure, axes = plt.subplots(len(rows), 3, figsize=(5, 1.8 * len(rows)), layout="constrained", squeeze=False)
    for line, (title, image, *masks) in zip(axes, rows, strict=True):
        for ax, mask, name in zip(line, (None, *masks), ("image", "truth", "prediction"), strict=True):
            ax.imshow(image, cmap="gray", interpolation="nearest")
            if mask is not None:
                seen = np.ma.masked_array(mask, ~np.isin(mask, list(classes)))
                ax.imshow(seen, cmap=colour_map, norm=scale, alpha=0.55, interpolation="nearest")
            ax.set(xticks=[], yticks=[])
            ax.set_title(f"{title}\n{name}" if ax is line[0] else f"\n{name}", fontsize="small", loc="left")
    figure.suptitle(NET_NAMES.get(net, net))
    patches = [Patch(color=palette[name], alpha=0.55, label=name) for name in classes.values()]
    figure.legend(handles=patches, loc="outside lower center", ncols=4)
    save(figure, f"examples_{net}", out, settings)
