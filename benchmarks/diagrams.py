"""Draws the Mermaid diagrams of docs/ as SVG for the site: `python -m benchmarks.diagrams`.

It needs Chromium, and npm to download Mermaid. GitHub draws the diagrams itself. The site shows the SVGs, and so needs
neither a network nor three megabytes of JavaScript. The name of an SVG depends on the diagram's text: after a change,
the site cannot be built until this has run again.
"""

import argparse
import html
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

sys.path.append("docs/site")
from hooks import DIAGRAMS, ROOT, diagram_name, diagrams_of  # pyright: ignore[reportMissingImports] -- of docs/site

NPM = shutil.which("npm") or "npm"
MERMAID = "11.17.2"
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), "chromium")
PAGE = """<!doctype html><meta charset="utf-8"><script src="{script}"></script>
<pre id="source">{source}</pre><div id="drawn"></div>
<script type="module">
mermaid.initialize({{startOnLoad: false, theme: "neutral", fontFamily: "sans-serif"}});
const {{svg}} = await mermaid.render("diagram_{name}", document.getElementById("source").textContent);
document.getElementById("drawn").innerHTML = svg;
document.getElementById("drawn").dataset.done = "yes";
</script>"""


def download_mermaid(folder: Path) -> Path:
    """Download Mermaid's script into a folder and return its path."""
    subprocess.run([NPM, "pack", "--silent", f"mermaid@{MERMAID}"], cwd=folder, check=True, timeout=300)
    with tarfile.open(folder / f"mermaid-{MERMAID}.tgz") as archive:
        archive.extract("package/dist/mermaid.min.js", folder, filter="data")
    return folder / "package" / "dist" / "mermaid.min.js"


def draw(source: str, mermaid: Path) -> str:
    """Return a Mermaid diagram as SVG."""
    name, page = diagram_name(source).removesuffix(".svg"), mermaid.with_name("page.html")
    text = PAGE.format(script=mermaid.name, source=html.escape(source), name=name)
    page.write_text(text, encoding="utf-8")
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={mermaid.parent}/profile"]
    command += ["--virtual-time-budget=20000", "--dump-dom", page.as_uri()]
    dom = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    if 'data-done="yes"' not in dom:
        raise ValueError(f"the browser could not draw the diagram that begins with {source[:40]!r}")
    svg = dom[dom.index("<svg", dom.index('id="drawn"')) : dom.rindex("</svg>") + len("</svg>")]
    return re.sub(r' (?:role|aria-roledescription)="[^"]*"', "", svg, count=2)  # roles that browsers don't know


def main() -> None:
    """Draw the diagrams of all pages, and delete the SVGs of diagrams that no longer exist."""
    DIAGRAMS.mkdir(exist_ok=True)
    pages = sorted((ROOT / "docs").glob("*.md"))
    sources = {diagram_name(text): text for page in pages for text in diagrams_of(page.read_text(encoding="utf-8"))}
    for old in {file.name for file in DIAGRAMS.iterdir()} - sources.keys():
        (DIAGRAMS / old).unlink()
    with tempfile.TemporaryDirectory() as folder:
        mermaid = download_mermaid(Path(folder))
        for name, source in sources.items():
            file = DIAGRAMS / name
            file.write_text(draw(source, mermaid) + "\n", encoding="utf-8")
            print(file.relative_to(ROOT), file.stat().st_size, "bytes")


if __name__ == "__main__":
    argparse.ArgumentParser(
        prog="python -m benchmarks.diagrams", description=(__doc__ or "").splitlines()[0]
    ).parse_args()
    main()
