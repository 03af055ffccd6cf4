"""Adds to the site what docs/ does not have: README, the repository's files that pages link to, generated parts.

A page has a generated part where a line is `<!-- generated: KIND NAME -->`, which GitHub does not show.
"""

import hashlib
import os
import re
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page
from reference import api, commands, settings

from shards.config.schema import AssembleConfig
from stylefinetune.config.schema import Config

ROOT = Path(__file__).resolve().parents[2]
PAGES = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
COPIES = "repository"  # folder of the site for the repository's other files
DIAGRAMS = Path(__file__).with_name("diagrams")
_LINK = re.compile(r"\[([^\[\]]*)\]\((?!https?:|mailto:|#)([^)#\s]+)(#[^)\s]*)?\)")
_GENERATED = re.compile(r"^<!-- generated: (\w+) ([\w.]+) -->$", re.MULTILINE)
_MERMAID = re.compile(r"^```mermaid\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_GENERATORS: dict[str, Callable[[str], str]] = {
    "settings": lambda package: settings({"shards": AssembleConfig, "stylefinetune": Config}[package]),
    "commands": commands,
    "api": api,
}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add README.md and the like as pages, and the files and folders outside docs/ to which pages link."""
    for name, page in PAGES.items():
        files.append(File.generated(config, page, content=(ROOT / name).read_text(encoding="utf-8")))
    for page in list(files.documentation_pages()):
        for _, link, _ in _LINK.findall(page.content_string):
            target = _target(page.src_uri, link)
            if target.exists() and not files.get_file_from_path(str(_site_path(target))):
                files.append(_copy(target, config))
    return files


def _copy(target: Path, config: MkDocsConfig) -> File:
    """Return the site's copy of a file of the repository, or the page with the files of a folder."""
    path = str(_site_path(target))
    if target.is_dir():
        parts = [f"## {file.name}\n\n```yaml\n{file.read_text('utf-8')}```\n" for file in sorted(target.iterdir())]
        text = f"# {target.relative_to(ROOT)}\n\n{chr(10).join(parts)}"
        return File.generated(config, path, content=text, inclusion=InclusionLevel.NOT_IN_NAV)
    return File.generated(config, path, abs_src_path=str(target), inclusion=InclusionLevel.NOT_IN_NAV)


def on_page_markdown(markdown: str, page: Page, files: Files, **_: object) -> str:
    """Point a page's links to the site's pages and copies, and add its generated parts."""
    source = page.file.src_uri

    def follow(match: re.Match[str]) -> str:
        text, link, anchor = match[1], match[2], match[3] or ""
        path = _site_path(_target(source, link))
        target = files.get_file_from_path(str(path))
        if target and text in {link, PurePosixPath(link).name}:  # a page's name says less than its title
            text = _title(target)
        return f"[{text}]({os.path.relpath(path, PurePosixPath(source).parent)}{anchor})"

    markdown = _LINK.sub(follow, markdown)
    markdown = _MERMAID.sub(lambda match: diagram(match[1]), markdown)
    return _GENERATED.sub(lambda match: _GENERATORS[match[1]](match[2]), markdown)


def _title(target: File) -> str:
    """Return the title of a page up to its first colon, or the name of another file."""
    heading = re.match(r"# ([^:\n]*)", target.content_string) if target.is_documentation_page() else None
    return heading[1] if heading else target.name


def _target(page: str, link: str) -> Path:
    """Return the file to which a link of a page leads, as GitHub resolves it."""
    home = PurePosixPath("docs", page).parent
    if page in PAGES.values():
        home = PurePosixPath()
    elif home.is_relative_to(f"docs/{COPIES}"):
        home = home.relative_to(f"docs/{COPIES}")
    return Path(os.path.normpath(ROOT / home / link))


def _site_path(target: Path) -> PurePosixPath:
    """Return where the site has a file or a folder of the repository, relative to the site's sources."""
    name = PurePosixPath(target.relative_to(ROOT).as_posix())
    if str(name) in PAGES:
        return PurePosixPath(PAGES[str(name)])
    if name.parts[0] == "docs":
        return name.relative_to("docs")
    return PurePosixPath(f"{COPIES}/{name}.md" if target.is_dir() else f"{COPIES}/{name}")


def diagrams_of(markdown: str) -> list[str]:
    """Return the text of each Mermaid diagram of a page."""
    return _MERMAID.findall(markdown)


def diagram_name(source: str) -> str:
    """Return the name of the SVG of a Mermaid diagram, which depends on its text."""
    return f"{hashlib.sha256(source.encode()).hexdigest()[:12]}.svg"


def diagram(source: str) -> str:
    """Return the HTML of a Mermaid diagram, which benchmarks/diagrams.py has drawn."""
    file = DIAGRAMS / diagram_name(source)
    if not file.is_file():
        raise PluginError(f"the diagram that begins with {source[:40]!r} has changed; run benchmarks/diagrams.py")
    return f'<div class="diagram" tabindex="0">\n{file.read_text(encoding="utf-8")}\n</div>'
