"""Pictures of the concept pages, drawn from the definitions; numbers in them are computed here.

python -m website.pictures docs/images/concepts
"""

import math
import sys
from collections.abc import Callable
from pathlib import Path

from website.canvas import BLUE, GREEN, GREY, INK, ORANGE, PALE, PINK, SKY, Canvas


HALTING = (0.15, 0.25, 0.4, 0.55, 0.6)  # an example's halting probabilities, loop by loop
THRESHOLD = 0.99


def paid(probabilities: tuple[float, ...], threshold: float = THRESHOLD) -> list[float]:
    """Graves' weights: each loop pays its probability, the one that halts pays the remainder."""
    weights, total = [], 0.0
    for number, p in enumerate(probabilities, 1):
        halts = total + p >= threshold or number == len(probabilities)
        weights.append(1.0 - total if halts else p)
        if halts:
            break
        total += p
    return weights + [0.0] * (len(probabilities) - len(weights))


def loop() -> Canvas:
    """The network: what runs once, what runs n_loops times, and where the input comes back."""
    c = Canvas(250, "Ids go through embedding and prelude, n loops of one block, readout and coda")
    for x, words in ((20, "embed"), (104, "prelude"), (548, "readout"), (632, "coda,\nhead")):
        c.box(x, 100, 68, 50, words)
    c.rect(200, 50, 322, 150, "#e3f2fd", BLUE)
    c.text(361, 42, "the loop: n_loops times, the same weights", colour=BLUE, bold=True)
    for x, w, words in ((214, 92, "injection,\nnorm"), (320, 92, "block:\nattention,\nexperts"),
                        (426, 84, "adapter,\nhalting")):  # fmt: skip
        c.box(x, 92, w, 66, words, "#ffffff")
    for start, end in ((88, 102), (172, 212), (306, 318), (412, 424), (510, 546), (616, 630)):
        c.arrow((start, 125), (end, 125))
    c.arrow((468, 158), (468, 182), (250, 182), (250, 160), colour=BLUE)
    c.text(361, 176, "h", size=13, colour=BLUE)
    c.arrow((138, 150), (138, 222), (284, 222), (284, 160), colour=ORANGE)
    c.text(210, 240, "e, the same in every loop", size=13, colour=ORANGE)
    c.text(20, 90, "ids", size=13, anchor="start")
    c.arrow((53, 82), (53, 98))
    return c


def injection() -> Canvas:
    """The update's three parts, and what A leaves of a state after t loops."""
    c = Canvas(
        240, "The next state is A h plus B e plus f; powers of A show how fast h is forgotten"
    )
    for y, words, fill in ((30, "A h", SKY), (95, "B e", "#f5c6a5"), (160, "f = Block(...)", PALE)):
        c.box(70, y, 120, 44, words, fill)
        c.arrow((190, y + 22), (240, 117))
    c.box(242, 95, 90, 44, "next h")
    c.text(60, 57, "carry", anchor="end", size=12, colour=GREY)
    c.text(60, 122, "input", anchor="end", size=12, colour=GREY)
    c.text(60, 187, "block", anchor="end", size=12, colour=GREY)
    c.text(550, 28, "A^t: what is left of a state after t loops", bold=True)
    for row, (decay, colour) in enumerate(((0.9, GREY), (math.exp(-1), BLUE), (0.01, ORANGE))):
        y = 86 + row * 60
        c.text(418, y - 6, f"A = {decay:.2f}", anchor="end", size=12, colour=colour)
        for t in range(9):
            h = 40 * decay**t
            c.rect(430 + t * 28, y - h, 18, max(h, 0.8), colour, colour)
    for t in range(9):
        c.text(439 + t * 28, 224, str(t), size=12, colour=GREY)
    c.text(418, 224, "t", anchor="end", size=12, colour=GREY)
    return c


def halting() -> Canvas:
    """Halting probabilities of one position, and the weights that they become."""
    c = Canvas(250, "Halting probabilities of five loops become weights that sum to one")
    c.text(180, 28, "p: halting probability after each loop", bold=True)
    c.text(540, 28, "w: weight of that loop's state", bold=True)
    weights = paid(HALTING)
    for left, values, colour in ((40, HALTING, GREY), (400, weights, BLUE)):
        for t, value in enumerate(values):
            x, h = left + t * 56, 120 * value
            last = colour == BLUE and 0 < value != HALTING[t]
            c.rect(x, 190 - h, 40, max(h, 0.8), ORANGE if last else colour)
            c.text(x + 20, 184 - h, f"{value:.2f}", size=12)
            c.text(x + 20, 208, f"loop {t + 1}", size=12, colour=GREY)
    c.arrow((330, 130), (388, 130))
    c.text(540, 236, f"loop 4 pays the remainder; the sum is {sum(weights):.2f}",
           size=12, colour=ORANGE)  # fmt: skip
    c.text(180, 236, f"their sum passes {THRESHOLD} at loop 4", size=12, colour=GREY)
    return c


def exits() -> Canvas:
    """Which positions run which loops, where each leaves when it is done."""
    c = Canvas(230, "Eight positions leave the loop after different numbers of loops")
    depths = (2, 1, 4, 1, 3, 6, 1, 2)
    words = ("The", " cat", " sat", " on", " a", " mat", ".", " It")
    for t in range(6):
        y = 160 - t * 26
        c.text(96, y + 16, f"loop {t + 1}", anchor="end", size=12, colour=GREY)
        for s, depth in enumerate(depths):
            ran = t < depth
            fill = (ORANGE if t == depth - 1 else SKY) if ran else "#ffffff"
            c.rect(110 + s * 46, y, 40, 22, fill, GREY if ran else "#cfd8dc", dashed=not ran)
    for s, word in enumerate(words):
        c.text(130 + s * 46, 204, word.strip(), size=12)
    full, ran = 6 * len(depths), sum(depths)
    c.rect(510, 60, 20, 16, SKY)
    c.text(538, 73, "runs, and goes on", anchor="start", size=13)
    c.rect(510, 86, 20, 16, ORANGE)
    c.text(538, 99, "done: read by the coda", anchor="start", size=13)
    c.rect(510, 112, 20, 16, "#ffffff", "#cfd8dc", dashed=True)
    c.text(538, 125, "not computed", anchor="start", size=13)
    c.text(510, 160, f"{ran} of {full} loops run", anchor="start", size=13, bold=True)
    c.text(510, 180, "(a made-up sentence)", anchor="start", size=12, colour=GREY)
    return c


def readout() -> Canvas:
    """What each readout takes of five loop states of one position."""
    c = Canvas(
        270, "Weights of five loop states under the readouts act, last, act_last and act_sum"
    )
    weights = paid(HALTING)
    halts = max(t for t, w in enumerate(weights) if w)
    early = list(HALTING[:2])
    rows = (
        ("act", weights, "mean, halting-weighted"),
        ("last", [0.0] * 4 + [1.0], "the last state"),
        ("act_last", [float(t == halts) for t in range(5)], "the state that halts"),
        ("act_sum", [*early, 0.0, 0.0, 0.0], "two loops: 0.40 in all"),
    )
    for t in range(5):
        c.text(176 + t * 72, 30, f"h_{t + 1}", bold=True)
    for number, (name, values, words) in enumerate(rows):
        y = 46 + number * 54
        c.text(120, y + 26, name, anchor="end", bold=True)
        for t, value in enumerate(values):
            shade = 255 - round(200 * value)
            fill = f"#{shade:02x}{min(255, shade + 60):02x}ff" if value else "#ffffff"
            c.rect(144 + t * 72, y, 64, 40, fill)
            if value:
                c.text(176 + t * 72, y + 25, f"{value:.2f}", size=13)
        c.text(520, y + 25, words, anchor="start", size=13, colour=GREY)
    return c


def adapters() -> Canvas:
    """The loop index in the first channels, and the adapter's shared maps with one row a loop."""
    c = Canvas(
        270, "A sinusoid of the loop number in the first channels; a low-rank correction per loop"
    )
    c.text(170, 28, "loop index: channels across, loops down", bold=True)
    channels = 8
    for t in range(6):
        c.text(44, 60 + t * 30, f"t = {t}", anchor="end", size=12, colour=GREY)
        for i in range(channels):
            angle = t * 10000 ** (-2 * (i % (channels // 2)) / channels)
            value = math.sin(angle) if i < channels // 2 else math.cos(angle)
            strength = round(255 - 175 * abs(value))
            fill = (
                f"#{strength:02x}{strength:02x}ff"
                if value < 0
                else f"#ff{strength:02x}{strength:02x}"
            )
            c.rect(52 + i * 34, 44 + t * 30, 30, 24, fill)
    c.text(188, 248, "sin (four channels), then cos; red > 0, blue < 0", size=12, colour=GREY)
    c.text(545, 28, "adapter of rank r", bold=True)
    c.box(390, 100, 60, 40, "f")
    c.box(474, 100, 76, 40, "down", SKY)
    c.box(574, 100, 40, 40, "x")
    c.box(638, 100, 62, 40, "B", SKY)
    for start, end in ((450, 472), (550, 572), (614, 636)):
        c.arrow((start, 120), (end, 120))
    for t in range(4):
        c.rect(560, 172 + t * 18, 68, 14, ORANGE if t == 1 else PALE)
        c.text(552, 184 + t * 18, f"scale[{t}]", anchor="end", size=12, colour=GREY)
    c.arrow((594, 170), (594, 142), colour=ORANGE)
    c.arrow((669, 100), (669, 70), (420, 70), (420, 98))
    c.text(545, 62, "added to f", size=12)
    c.text(545, 262, "maps shared by all loops, one row of scale each", size=12, colour=GREY)
    return c


def experts() -> Canvas:
    """One token's way through the layer, and what the bias does to the loads."""
    c = Canvas(270, "A router picks two of eight experts by logits plus bias; loads even out")
    c.box(16, 110, 60, 40, "x")
    c.box(104, 110, 80, 40, "router")
    c.arrow((76, 130), (102, 130))
    for e in range(8):
        y = 30 + e * 25
        picked = e in (2, 5)
        c.rect(262, y, 84, 20, SKY if picked else PALE)
        c.text(304, y + 15, f"expert {e}", size=12)
        c.arrow((184, 130), (260, y + 10), colour=INK if picked else GREY, dashed=not picked)
        if picked:
            c.arrow((346, y + 10), (396, 130))
    c.rect(262, 236, 84, 20, "#c8e6c9")
    c.text(304, 251, "always on", size=12)
    c.line((46, 150), (46, 246))
    c.arrow((46, 246), (260, 246))
    c.arrow((346, 246), (410, 152))
    c.box(398, 110, 40, 40, "sum")
    c.text(580, 28, "tokens per expert", bold=True)
    for left, loads, words in ((466, (38, 4, 22, 1, 3, 30, 2, 0), "bias 0"),
                               (596, (13, 12, 13, 12, 12, 13, 13, 12), "bias steps")):  # fmt: skip
        for e, load in enumerate(loads):
            c.rect(
                left + e * 14, 200 - 4 * load, 11, max(4 * load, 0.8), GREEN if left > 500 else PINK
            )
        c.text(left + 54, 222, words, size=12, colour=GREY)
    c.line((462, 150), (712, 150), dashed=True)
    c.text(580, 250, "dashed: the mean; loads are made up", size=12, colour=GREY)
    return c


def attention() -> Canvas:
    """What grouped-query and latent attention cache of one position."""
    c = Canvas(260, "Grouped-query attention caches keys and values; latent attention one latent")
    c.text(180, 28, "gqa: heads share keys and values", bold=True)
    for head in range(4):
        c.box(24 + head * 80, 60, 68, 34, f"query {head + 1}")
        c.arrow((58 + head * 80, 94), (98 + head // 2 * 160, 138))
    for group in range(2):
        c.box(32 + group * 160, 140, 132, 34, f"key, value {group + 1}", ORANGE, "#ffffff")
    c.text(180, 206, "cached: 2 x kv heads x head width", size=13, colour=ORANGE)
    c.text(540, 28, "mla: one latent for all heads", bold=True)
    for head in range(4):
        c.box(384 + head * 80, 60, 68, 34, f"query {head + 1}")
        c.box(384 + head * 80, 112, 68, 34, f"k, v {head + 1}", PALE, GREY)
        c.arrow((418 + head * 80, 94), (418 + head * 80, 110))
        c.arrow((470, 168), (412 + head * 80, 148), colour=GREY)
        c.arrow((626, 168), (426 + head * 80, 148), colour=GREY, dashed=True)
    c.box(404, 168, 140, 34, "latent c_kv", ORANGE, "#ffffff")
    c.box(566, 168, 120, 34, "rotated key", ORANGE, "#ffffff")
    c.text(540, 230, "cached: kv_lora_rank + qk_rope_head_dim", size=13, colour=ORANGE)
    return c


def kv() -> Canvas:
    """Which entries loop 3 of a new position attends to, under the three ways of sharing."""
    c = Canvas(
        250, "Entries of five positions in four loops that loop three of the last position sees"
    )
    for number, name in enumerate(("per_loop", "first", "last")):
        left = 66 + number * 228
        c.text(left + 75, 28, f'kv="{name}"', bold=True)
        for t in range(4):
            for s in range(5):
                kept = (
                    name == "per_loop"
                    or (name == "first" and t == 0)
                    or (name == "last" and t == 3)
                )
                new = s == 4
                seen = {"per_loop": t == 2, "first": t == 0, "last": t == (2 if new else 3)}[name]
                fill = ORANGE if seen else SKY if kept else "#ffffff"
                empty = not kept and not seen
                c.rect(
                    left + s * 30,
                    138 - t * 32,
                    26,
                    26,
                    fill,
                    "#cfd8dc" if empty else GREY,
                    dashed=empty,
                )
        x = left + 133
        c.line((x - 15, 72), (x + 15, 72), (x + 15, 102), (x - 15, 102), (x - 15, 72), colour=INK)
        c.text(left + 75, 186, "positions", size=12, colour=GREY)
    for t in range(4):
        c.text(54, 156 - t * 32, f"loop {t + 1}", anchor="end", size=12, colour=GREY)
    for x, fill, words in ((96, ORANGE, "seen from the framed place"), (380, SKY, "cached"),
                           (510, "#ffffff", "not kept")):  # fmt: skip
        c.rect(x - 24, 212, 18, 16, fill, dashed=fill == "#ffffff")
        c.text(x, 225, words, anchor="start", size=12)
    return c


def moda() -> Canvas:
    """What one query of a deep stack sees: its sequence in its layer, and its position below."""
    c = Canvas(250, "A query sees earlier positions of its layer and lower layers of its position")
    for layer in range(5):
        y = 170 - layer * 34
        c.text(96, y + 18, f"layer {layer}", anchor="end", size=12, colour=GREY)
        for s in range(6):
            row, column = layer == 3 and s <= 4, s == 4 and layer < 3
            fill = SKY if row else ORANGE if column else "#ffffff"
            c.rect(110 + s * 46, y, 40, 28, fill, GREY if row or column else "#cfd8dc")
    c.text(314, 87, "q", bold=True)
    c.text(245, 224, "positions", size=12, colour=GREY)
    c.rect(440, 70, 20, 16, SKY)
    c.text(468, 83, "sequence keys: its layer, s <= t", anchor="start", size=13)
    c.rect(440, 98, 20, 16, ORANGE)
    c.text(468, 111, "depth keys: its position, i < l", anchor="start", size=13)
    c.text(440, 142, "one softmax over both", anchor="start", size=13, bold=True)
    return c


PICTURES: dict[str, Callable[[], Canvas]] = {
    "loop": loop,
    "injection": injection,
    "halting": halting,
    "exits": exits,
    "readout": readout,
    "adapters": adapters,
    "experts": experts,
    "attention": attention,
    "kv": kv,
    "moda": moda,
}


def main(folder: Path) -> None:
    """Write every picture into the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, draw in PICTURES.items():
        (folder / f"{name}.svg").write_text(draw().svg(), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
