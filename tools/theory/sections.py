"""The sections of the page: what is shown, in which order, and the short text that says what to look at."""

from pathlib import Path

from torch import Tensor

from models.theory.catalog import MORE, TABLE_1, Setting
from models.theory.curves import SUBJECTS, WINDOW, measure_curves
from models.theory.table import COLUMNS, measure_layer, row
from models.theory.translation import EXACT
from tools.theory import html
from tools.theory.figures import (
    MATRIX_SETTING,
    connectivity_panels,
    draw_curves,
    draw_relation_graph,
    matrix_pictures,
    matrix_setting,
)
from tools.theory.learned import Sheet, Trained, mixer_inputs, over_channels, over_positions, shown_image

KINDS = {
    "any": "any translation",
    "blocks": f"translation by windows ({WINDOW}, {2 * WINDOW}, ...)",
    "none": "no translation",
}


class Files:
    """The folder that is written: index.html, and each figure once more as a file of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "figures").mkdir(parents=True, exist_ok=True)

    def svg(self, name: str, content: str) -> str:
        (self.folder / "figures" / f"{name}.svg").write_text(content, encoding="utf-8")
        return content

    def png(self, name: str, content: bytes) -> bytes:
        (self.folder / "figures" / f"{name}.png").write_bytes(content)
        return content

    def page(self, title: str, body: list[str]) -> Path:
        path = self.folder / "index.html"
        path.write_text(html.page(title, body), encoding="utf-8")
        return path


def introduction() -> str:
    return "<h1>Local attention and depth-wise convolution, measured</h1>" + html.paragraphs(
        """The paper reads local attention, depth-wise convolution and their relatives as one sum over a window,
        <i>y<sub>i</sub> = Σ<sub>j</sub> w<sub>ij</sub> ⊙ x<sub>ij</sub></i> (equation 4). Three things tell them apart:
        which weights exist (<b>sparse connectivity</b>), which are equal (<b>weight sharing</b>), and whether they
        depend on the image (<b>dynamic weight</b>).

        Figure 1, Table 1 and the matrices are measured: each operator's own code was run, the map from its values to
        its output was taken as a matrix by automatic differentiation, and what you see was read from that matrix. The
        relation graph is drawn from what the operators declare, which tests hold to the measurement; the curves and
        the learned weights come from running the operators."""
    )


def properties(files: Files) -> str:
    """Figure 1 and Table 1."""
    panels = [
        html.figure(files.svg(f"figure1_{letter}", picture), f"({letter}) {caption}")
        for letter, (caption, picture) in connectivity_panels().items()
    ]
    layers = {**TABLE_1, "i_dynamic": MORE["i_dynamic"]}
    rows = [[layer.label, *row(measure_layer(layer, Setting()).properties).values()] for layer in layers.values()]
    return "\n".join(
        [
            "<h2>Which inputs reach one output (Figure 1)</h2>",
            html.paragraphs(
                """The blue inputs reach the orange output. One row of a 6x6 map is drawn, with 4 channels and windows
                of 3. Look at (c): local attention, DW-Conv., D-DW-Conv. and I-Dynamic have the same picture for an
                output in the middle of its window; this was checked (section 2.4)."""
            ),
            html.grid(panels, "large"),
            "<h2>Table 1, as measured</h2>",
            html.paragraphs(
                """Local attention and depth-wise convolution agree in sparsity, the first two columns, and differ in
                sharing, the next two: one shares its weights across channels, the other across positions (section 2.5).
                I-Dynamic, the last row, is not in the paper's table. "Per group": one set of weights for each head or
                group of channels."""
            ),
            html.table(["layer", *COLUMNS.values()], rows, apart=len(TABLE_1)),
        ]
    )


def matrices(files: Files) -> str:
    """Appendix A."""
    pictures = [
        html.figure(
            html.image(files.png(f"matrix_{name}", png), f"connection matrix of {label}", "matrix"), label, note
        )
        for name, (label, note, png) in matrix_pictures().items()
    ]
    height, width = MATRIX_SETTING.size
    wide = matrix_setting("multi_scale_conv").size
    return "\n".join(
        [
            "<h2>Connection matrices (Appendix A)</h2>",
            html.paragraphs(
                f"""Row: an output; column: an input; red positive, blue negative, white no connection. Channel by
                channel as in equations 9 to 14: each grey square is one of {MATRIX_SETTING.channels} channels of a
                {height}x{width} map ({wide[0]}x{wide[1]} for the multi-scale convolution). Weights on the diagonal
                squares only: no connection across channels. Equal squares: shared across channels. The same stripe
                all along: shared across positions."""
            ),
            html.grid(pictures),
        ]
    )


def relation(files: Files) -> str:
    """Figure 4."""
    return "\n".join(
        [
            "<h2>Relation graph (Figures 2 and 4)</h2>",
            html.paragraphs(
                """Drawn from what the layers declare, and tests hold that to be what is measured. Boxes with a warm
                ground have dynamic weights. An arrow changes one property. Where layers stand in one box, the graph
                does not tell them apart: local attention and I-Dynamic share within groups of channels, but the one
                cuts the map into windows and compares features, the other slides and generates its weights; dynamic
                depth-wise convolution shares across positions. On a narrow screen the graph scrolls sideways."""
            ),
            f'<div class="wide graph">{files.svg("figure4", draw_relation_graph())}</div>',
        ]
    )


def translation(files: Files) -> str:
    """Appendix C."""
    panels = []
    for subject in SUBJECTS:
        curves = measure_curves(subject)
        kind = KINDS.get(curves.kind, f"translation by {curves.kind}")
        name = subject.label.lower().replace(" ", "_").replace(".", "").replace(",", "")
        panels.append(
            html.figure(
                files.svg(f"translation_{name}", draw_curves(curves)),
                subject.label,
                f"equivalent to {kind}; largest error {worst(curves.mixer)}, stage {worst(curves.stage)}",
            )
        )
    return "\n".join(
        [
            "<h2>Equivalence to translation (Appendix C)</h2>",
            html.paragraphs(
                f"""The map is moved down, across, and both by as much, and the answer is compared with the moved
                answer, borders left out; the largest error is drawn. The map is rolled: what leaves at one side enters
                at the other, so that the average over the map, from which D-DW-Conv. makes its kernels, stays the same.
                Zero means that the operator does not care where it stands. Windows here are {WINDOW}
                positions wide (grey lines). "Stage" is patch merging and two blocks, the second with shifted windows.

                The stage of D-DW-Conv. is a little off zero: the kernels of its second block come from an average over
                the whole map, and the borders are in it."""
            ),
            html.grid(panels, "large"),
        ]
    )


def worst(errors: dict[int, float]) -> str:
    """The largest error in few digits; rounding of float64 is 0."""
    largest = max(errors.values())
    return "0" if largest < EXACT else f"{largest:.2g}"


def learned(files: Files, models: list[Trained], images: list[Tensor]) -> str:
    """Weights of trained models."""
    x = mixer_inputs(models[0], images[0])[0]
    halves = []
    for letter, image in zip("AB", images, strict=True):
        picture = files.png(f"image_{letter.lower()}", shown_image(image, (x.shape[1], x.shape[2])))
        sheet = over_positions(models, image)
        _keep(files, f"image_{letter.lower()}", sheet, models)
        halves.append(
            f"<div>{html.figure(html.image(picture, f'image {letter}'), f'image {letter}')}{html.sheet(sheet)}</div>"
        )
    channels = over_channels(models, images[0])
    _keep(files, "channels", channels, models)
    # The folder's own name: where it lies on this disk means nothing to a reader.
    sources = ", ".join(
        f"{trained.folder.resolve().name} ({trained.config.train.epochs} epochs of {trained.config.data.dataset_name})"
        for trained in models
    )
    return "\n".join(
        [
            "<h2>Learned weights, side by side (sections 2.3 and 2.4)</h2>",
            html.paragraphs(
                """The weights behind one output of the first block, at three places of two images, marked green: the
                brightest, the strongest edge, the darkest. Red is positive, blue negative, each operator on one scale;
                the green dot is the output's own place in its window. DW-Conv. has the same kernel everywhere.
                D-DW-Conv. changes it with the image and keeps it across positions. Local attention and I-Dynamic have
                other weights at each position; those of attention are positive and sum to 1."""
            ),
            f'<div class="pair">{"".join(halves)}</div>',
            html.paragraphs(
                """The same for channels, at the middle of image A in the second stage. The depth-wise kernels differ
                from channel to channel. Attention has one set of weights for all channels of a head, I-Dynamic one for
                each group."""
            ),
            html.sheet(channels),
            html.paragraphs(f"Weights shown: {sources}."),
        ]
    )


def _keep(files: Files, name: str, sheet: Sheet, models: list[Trained]) -> None:
    for line, trained in zip(sheet.rows, models, strict=True):
        for column, picture in zip(sheet.columns, line.pictures, strict=True):
            files.png(f"weights_{name}_{trained.name}_{column.replace(' ', '_').replace('/', '')}", picture)
