"""What the pages say about the tree holds: links, commands, examples, figures of the results."""
import glob
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")),
         *sorted((ROOT / "tests").rglob("README.md"))]
RESULTS = ROOT / "docs" / "results"
FOLDERS = "bench|cmake|config|docs|heuristics|observe|packaging|preload|scripts|tests|tools|vmm"


def text_of(page):
    return page.read_text(encoding="utf-8")


def code_lines(text):
    """Lines of indented and fenced blocks."""
    fenced = False
    for line in text.splitlines():
        if line.startswith("```"):
            fenced = not fenced
        elif fenced or line.startswith("    "):
            yield line.strip()


def numbers(text):
    return [(float(word.replace(",", "")), len(word.partition(".")[2]))
            for word in re.findall(r"(?<![\w.])\d[\d,]*(?:\.\d+)?", text.replace(", ", " "))]


def rows(text):
    """Cells of all table rows but headings."""
    for line in text.splitlines():
        if line.startswith("|") and not set(line) <= set("|- :"):
            yield [cell.strip() for cell in line.strip().strip("|").split("|")]


class Pages(unittest.TestCase):
    def test_links_lead_somewhere(self):
        for page in PAGES:
            for target in re.findall(r"\]\(([^)\s]+)\)", text_of(page)):
                if re.match(r"[a-z]+://", target) or target.startswith("#"):
                    continue
                with self.subTest(page=page.name, target=target):
                    self.assertTrue((page.parent / target.partition("#")[0]).exists())

    def test_paths_exist(self):
        for page in PAGES:
            for path in re.findall(rf"`((?:{FOLDERS})/[\w./*-]*)[ `]", text_of(page)):
                with self.subTest(page=page.name, path=path):
                    self.assertTrue(glob.glob(str(ROOT / path)), "no such file")

    def test_commands_can_be_run(self):
        for page in PAGES:
            for line in code_lines(text_of(page)):
                command = re.match(r"scripts/[\w.]+", line)
                if command:
                    with self.subTest(page=page.name, command=command.group()):
                        self.assertTrue(os.access(ROOT / command.group(), os.X_OK))

    @unittest.skipUnless(os.environ.get("KVSHIM_TEST_KVWRAP"), "needs kvwrap")
    def test_configurations_load_without_a_complaint(self):
        environment = {k: v for k, v in os.environ.items()
                       if not k.startswith("KVSHIM_") and k != "LD_PRELOAD"}
        environment["KVSHIM_LIBRARY"] = os.environ["KVSHIM_TEST_LIBRARY"]
        examples = 0
        for page in (ROOT / "README.md", ROOT / "docs" / "config.md"):
            for example in re.findall(r"```toml\n(.*?)```", text_of(page), re.S):
                examples += 1
                with self.subTest(page=page.name), tempfile.NamedTemporaryFile("w") as file:
                    file.write(example)
                    file.flush()
                    done = subprocess.run(
                        [os.environ["KVSHIM_TEST_KVWRAP"], "--config", file.name, "true"],
                        env=environment, capture_output=True, text=True, timeout=30, check=False)
                    self.assertEqual((done.returncode, done.stderr), (0, ""))
        self.assertGreater(examples, 1)


    def test_the_logs_page_quotes_what_the_sources_say(self):
        folders = ("config", "heuristics", "observe", "preload", "segment", "vmm")
        said = "".join(path.read_text(encoding="utf-8") for folder in folders
                       for path in sorted((ROOT / folder).rglob("*.cpp")))
        said = re.sub(r'"\s*"', "", said)  # literals in several lines
        quoted = [row[0] for row in rows(text_of(ROOT / "docs" / "log.md")) if row[0].startswith("`")]
        self.assertGreater(len(quoted), 15)
        for text in quoted:
            for piece in text.strip("`").split(" ... "):
                with self.subTest(text=piece):
                    self.assertIn(piece, said)


class Results(unittest.TestCase):
    def test_tables_of_the_vllm_page_are_those_of_the_runs(self):
        """Row by row, in the page's order of runs; rows that the report has renamed since are left
        out, but most must be found."""
        shown = [tuple(row[:2]) for row in rows(text_of(RESULTS / "vllm.md")) if len(row) == 4]
        found = 0
        for run in sorted((RESULTS / "data").glob("*.json")):
            report = subprocess.run([sys.executable, str(ROOT / "scripts" / "proof_report"), str(run)],
                                    capture_output=True, text=True, timeout=30, check=True).stdout
            measured = [tuple(row[:2]) for row in rows(report) if len(row) == 4]
            labels = {label for label, _ in shown}
            for row in measured:
                if row[0] in labels:
                    with self.subTest(run=run.name, what=row[0]):
                        self.assertIn(row, shown)
                    found += 1
        self.assertGreater(found, 0.5 * len(shown))

    def test_the_readmes_figures_were_measured(self):
        known = [value for page in RESULTS.glob("*.md") for value, _ in numbers(text_of(page))]
        table = text_of(ROOT / "README.md").partition("## Measured")[2].partition("\n## ")[0]
        checked = 0
        for row in rows(table):
            for value, digits in numbers(" | ".join(row[1:3])):
                checked += 1
                with self.subTest(what=row[0], value=value):
                    self.assertTrue(any(round(other, digits) == value for other in known),
                                    "in no page of docs/results")
        self.assertGreater(checked, 10)


if __name__ == "__main__":
    unittest.main()
