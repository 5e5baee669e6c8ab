"""Opens a page of `bonsai report` in Chromium as its readers will: light, dark, on a phone, on paper.

    just report-check report.html --shots shots

It fails where the console says anything, where anything but the page is asked for, where a figure is missing or empty, where the
page is wider than the screen, and where labels of a figure overlap or are cut off. It needs Python's playwright, and Chromium: the
system's, or the one that `playwright install chromium` fetches.
"""

import argparse
import pathlib
import shutil
import sys

from playwright.sync_api import sync_playwright

VIEWS = {
    "light": dict(viewport=dict(width=1280, height=900), color_scheme="light"),
    "dark": dict(viewport=dict(width=1280, height=900), color_scheme="dark"),
    "phone": dict(viewport=dict(width=390, height=844), color_scheme="light", device_scale_factor=2, is_mobile=True),
    "phone-dark": dict(viewport=dict(width=390, height=844), color_scheme="dark", device_scale_factor=2, is_mobile=True),
    "print": dict(viewport=dict(width=760, height=1000), color_scheme="dark"),
}

# Texts of a figure that leave it or cover each other by more than a pixel or two; in the figure's own units.
LABELS = """() => [...document.querySelectorAll('figure')].flatMap(figure => {
  const view = figure.querySelector('svg').viewBox.baseVal, found = [];
  const texts = [...figure.querySelectorAll('text')].map(text => [text.textContent.trim(), text.getBBox()]);
  for (const [text, box] of texts)
    if (box.x < -1 || box.y < -1 || box.x + box.width > view.width + 1 || box.y + box.height > view.height + 1)
      found.push(`${figure.id}: "${text}" is cut off`);
  for (let i = 0; i < texts.length; i++) for (let j = 0; j < i; j++) {
    const [a, b] = [texts[i][1], texts[j][1]];
    const wide = Math.min(a.x + a.width, b.x + b.width) - Math.max(a.x, b.x);
    const high = Math.min(a.y + a.height, b.y + b.height) - Math.max(a.y, b.y);
    if (wide > 1 && high > 3) found.push(`${figure.id}: "${texts[i][0]}" covers "${texts[j][0]}"`);
  }
  return found;
})"""

# Figures without ink, and numbers that are none.
FIGURES = """() => [...document.querySelectorAll('figure')].flatMap(figure => {
  const svg = figure.querySelector('svg'), box = svg.getBoundingClientRect();
  const marks = svg.querySelectorAll('path, rect, circle').length;
  const found = [];
  if (box.width < 100 || box.height < 60) found.push(`${figure.id} is ${box.width} x ${box.height}`);
  if (!marks) found.push(`${figure.id} is empty`);
  if (/NaN|Infinity/.test(svg.outerHTML)) found.push(`${figure.id} holds a number that is none`);
  return found;
})"""


def look(browser, page_file, name, options, shots):
    """Opens one view and returns what is wrong with it."""
    wrong = []
    context = browser.new_context(**options)
    page = context.new_page()
    page.on("console", lambda message: wrong.append(f"the console says: {message.text}"))
    page.on("pageerror", lambda error: wrong.append(f"a script failed: {error}"))
    own = page_file.as_uri()
    page.on("request", lambda request: None if request.url == own or request.url.startswith("data:") else wrong.append(f"{request.url} is asked for"))
    if name == "print":
        page.emulate_media(media="print")
    page.goto(own)
    rows = page.locator("#runs tbody tr").count()
    if not rows or not page.locator("h1").inner_text():
        wrong.append("there is no heading or no run")
    if not page.locator("figure").count():
        wrong.append("there is no figure")
    wrong += page.evaluate(FIGURES)
    wrong += page.evaluate(LABELS)
    size = page.evaluate("[document.scrollingElement.scrollWidth, innerWidth]")
    if size[0] > size[1]:
        wrong.append(f"the page is {size[0]} pixels wide on a screen of {size[1]}")
    for link in page.locator("nav a").all():
        target = link.get_attribute("href")
        if page.locator(target).count() != 1:
            wrong.append(f"the link to {target} leads nowhere")
    paper, text = page.evaluate("[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color]")
    dark = sum(map(int, paper[4:-1].split(","))) < 300
    if dark != name.endswith("dark"):
        wrong.append(f"the background is {paper} and the text {text}")
    if shots:
        page.screenshot(path=shots / f"{name}.png", full_page=True)
        if name == "print":
            page.pdf(path=shots / "print.pdf", format="A4", print_background=True)
    context.close()
    return wrong


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("page", type=pathlib.Path)
    parser.add_argument("--shots", type=pathlib.Path, help="folder for screenshots and a PDF")
    parser.add_argument("--needs", action="append", default=[], help="id of an element that must be there; may be given several times")
    arguments = parser.parse_args()
    if arguments.shots:
        arguments.shots.mkdir(parents=True, exist_ok=True)
    page_file = arguments.page.resolve(strict=True)
    with sync_playwright() as playwright:
        system = shutil.which("chromium") or shutil.which("google-chrome")
        browser = playwright.chromium.launch(executable_path=system, args=["--no-sandbox"])
        wrong = {}
        for name, options in VIEWS.items():
            for what in look(browser, page_file, name, options, arguments.shots):
                wrong.setdefault(what, []).append(name)
        page = browser.new_page()
        page.goto(page_file.as_uri())
        wrong |= {f"#{need} is missing": ["light"] for need in arguments.needs if page.locator(f"#{need}").count() != 1}
        figures, version = page.locator("figure").count(), browser.version
        browser.close()
    for what, views in wrong.items():
        print(f"{what} ({', '.join(dict.fromkeys(views))})")
    print(f"{arguments.page}: {figures} figures in Chromium {version}, {len(VIEWS)} views, {len(wrong)} complaints")
    sys.exit(bool(wrong))


main()
