"""The CLIP tab's view of a report as HTML: tiles, images, bars, the table of similarities. All text is escaped."""

from __future__ import annotations

import html

from ddpm_app.classifiers.clip_scores import PUBLISHED_TOP1, prompts_of_classes
from ddpm_app.studio.clip_report import Report
from ddpm_app.ui.components.base import Component

EMPTY = (
    "<div class='cv'><div class='empty'><strong>Nothing labelled yet</strong>"
    "<span>Choose pictures and press Label: CLIP reads each of them against every prompt.</span></div></div>"
)
STOPPED = EMPTY.replace("Nothing labelled yet", "Stopped")


class ClipTable(Component):
    """Its value is EMPTY, STOPPED, or what waiting, page or ranking return."""


def e(value: object) -> str:
    return html.escape(str(value))


def waiting(text: str, share: float | None = None) -> str:
    bar = f"<progress max='1' value='{share:.3f}'></progress>" if share is not None else "<progress></progress>"
    return f"<div class='cv'><div class='empty' role='status'><strong>{e(text)}</strong>{bar}</div></div>"


def number(value: float | None, share: bool = False) -> str:
    return "–" if value is None else f"{value:.1%}" if share else f"{value:.4f}"


def tiles(r: Report) -> str:
    s, real = r.scores, r.real or {}
    rows = [
        ("Average top-1 similarity", number(s.average_top1), number(real.get("average_top1")), "of the best prompt, over the images"),
        ("Matching accuracy", number(s.matching, True), number(real.get("matching"), True), "the best prompt names the requested class"),
        ("Intended-class similarity", number(s.intended), number(real.get("intended")), "with the prompt of the requested class"),
    ]
    boxes = "".join(
        f"<div class='tile'><small>{name}</small><b>{value}</b><span>real images: {there}</span><em>{what}</em></div>"
        for name, value, there, what in rows
    )
    coverage = (
        f"{s.judged} of {len(s.best)} images have a known class that a prompt names."
        if r.pictures.classes
        else "The classes of these images are not known, so there is no matching accuracy."
    )
    reference = f"Real images: {e(r.real['source'])}." if r.real else e(r.why)
    published = (
        f"Published for comparison: {PUBLISHED_TOP1}, the average top-1 similarity of a CIFAR-10 DDPM after 50 epochs, with ViT-B/32. "
        + ("" if r.clip.name.startswith("ViT-B-32") else "This CLIP is another one, whose similarities are on another scale.")
    )
    return f"<div class='tiles'>{boxes}</div><p class='about'>{coverage} {reference} {e(published)}</p>"


def remarks(r: Report) -> str:
    sentences = list(r.pictures.notes)
    if r.clip.card and r.pictures.data not in ("", r.clip.card.get("data")):
        sentences.append(f"The shipped CLIP knows {r.clip.card.get('data')} only, not {r.pictures.data}. Choose a published one.")
    if r.unknown:
        words = ", ".join(f"“{w}”" for w in r.unknown[:12]) + (" …" if len(r.unknown) > 12 else "")
        sentences.append(f"The shipped CLIP does not know {words} and ignores it.")
    return "".join(f"<p class='remark'>{e(text)}</p>" for text in sentences)


def images(r: Report, pictures: list[str]) -> str:
    s, cells = r.scores, []
    for i, url in enumerate(pictures):
        best, label = r.prompts[int(s.best[i])], int(r.pictures.labels[i])
        requested = r.pictures.classes[label] if label >= 0 else ""
        matches = requested and r.scores.matching is not None and _matches(r, i)
        verdict = (
            "" if matches is None or not requested else "<i class='yes'>✓</i>" if matches else f"<i class='no'>✗ asked: {e(requested)}</i>"
        )
        cells.append(
            f"<figure><img src='{url}' alt='Image {i + 1}{', asked for: ' + e(requested) if requested else ''}'>"
            f"<figcaption><span title='{e(best)}'>{e(best)}</span><b>{float(s.top1[i]):.3f}</b>{verdict}</figcaption></figure>"
        )
    return f"<h3>Each image's best prompt</h3><div class='figures'>{''.join(cells)}</div>"


def _matches(r: Report, i: int) -> bool | None:
    """Whether image i's best prompt names the requested class; None where no prompt does."""
    names_class = prompts_of_classes(r.pictures.classes, r.prompts)[int(r.pictures.labels[i])]
    return bool(names_class[int(r.scores.best[i])]) if names_class.any() else None


def bars(r: Report) -> str:
    """The share of each class's images that match, generated and real; without classes, the share of images each prompt is best for."""
    s = r.scores
    if s.matching is None:
        shares = [float((s.best == p).float().mean()) for p in range(len(r.prompts))]
        rows = "".join(_bar(prompt, [("", share)], f"{share:.0%}") for prompt, share in zip(r.prompts, shares))
        return f"<h3>How often each prompt is the best</h3><table class='bars'><tbody>{rows}</tbody></table>"
    there = {k: row for k, row in enumerate((r.real or {}).get("by_class", []))}
    rows = []
    for k, (name, row) in enumerate(zip(r.pictures.classes, s.by_class)):
        real = there.get(k, {}).get("matching")
        if row["n"]:
            both = [("", row["matching"]), *([("real", real)] if real is not None else [])]
            rows.append(_bar(name, both, f"{number(row['matching'], True)} of {row['n']}", real))
    key = "<p class='key'><span>these images</span>" + ("<span class='real'>real images</span>" if r.real else "") + "</p>"
    names = ("class", "share that matches", "these", *(["real"] if r.real else []))
    head = "<thead><tr>" + "".join(f"<th scope='col'>{name}</th>" for name in names) + "</tr></thead>"
    return f"<h3>Matching accuracy by class</h3>{key}<table class='bars'>{head}<tbody>{''.join(rows)}</tbody></table>"


def _bar(name: str, shares: list[tuple[str, float]], text: str, real: float | None = None) -> str:
    strips = "".join(f"<div class='bar {kind}' style='width:{100 * share:.1f}%'></div>" for kind, share in shares)
    last = f"<td class='num'>{number(real, True)}</td>" if len(shares) > 1 or real is not None else ""
    return f"<tr><th scope='row'>{e(name)}</th><td class='strip'>{strips}</td><td class='num'>{text}</td>{last}</tr>"


def heatmap(r: Report, pictures: list[str]) -> str:
    """A row per image, a column per prompt; colours run from the lowest to the highest similarity of the table."""
    s = r.scores.similarity
    low, high = float(s.min()), float(s.max())
    head = "".join(f"<th scope='col'><div title='{e(p)}'>{e(p)}</div></th>" for p in r.prompts)
    body = []
    for i, url in enumerate(pictures):
        best = int(r.scores.best[i])
        cells = "".join(
            f"<td style='--v:{(v - low) / max(high - low, 1e-9):.2f}'{' class=best' if p == best else ''}>{v:.2f}</td>"
            for p, v in enumerate(s[i].tolist())
        )
        body.append(f"<tr><th scope='row'><img src='{url}' alt='Image {i + 1}'></th>{cells}</tr>")
    return (
        f"<h3>Similarity of every image with every prompt</h3><div class='scroll' tabindex='0' role='region' aria-label='Similarities'>"
        f"<table class='heat'><thead><tr><td></td>{head}</tr></thead><tbody>{''.join(body)}</tbody></table></div>"
        f"<p class='about'>Cosines, coloured from {low:.3f} to {high:.3f}; the best prompt of each image is outlined.</p>"
    )


def page(r: Report, pictures: list[str]) -> str:
    """The result as a page. pictures: one data URL per image."""
    source = f"<p class='about'>Read by {e(r.clip.name)}, weights {e(r.clip.digest[:12])}.</p>"
    return f"<div class='cv done'>{remarks(r)}{tiles(r)}{images(r, pictures)}{bars(r)}{heatmap(r, pictures)}{source}</div>"


def ranking(prompt: str, order: list[int], similarities: list[float], pictures: list[str], unknown: list[str]) -> str:
    cells = "".join(
        f"<figure><img src='{pictures[i]}' alt='Rank {k + 1}: image {i + 1}'><figcaption><span>{k + 1}. image {i + 1}</span>"
        f"<b>{value:.3f}</b></figcaption></figure>"
        for k, (i, value) in enumerate(zip(order, similarities))
    )
    remark = f"<p class='remark'>The shipped CLIP does not know {e(', '.join(unknown))} and ignores it.</p>" if unknown else ""
    return f"<div class='cv'><h3>Nearest to “{e(prompt)}” first</h3>{remark}<div class='figures'>{cells}</div></div>"
