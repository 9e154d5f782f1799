"""The results' files: a JSON for each part, all of them in one, and what compares them."""
import json
import pathlib

from servers import write_json


class Results:
    """parts/NAME.json as soon as a part ends; experiments.json holds all of them."""

    def __init__(self, out, facts, fingerprint):
        self.out, self.fingerprint = pathlib.Path(out), fingerprint
        self.folder = self.out / "parts"
        self.folder.mkdir(parents=True, exist_ok=True)
        self.path = self.out / "experiments.json"
        self.content = {"machine": facts, "parts": {}, "skipped": {}}

    def load_finished(self):
        """Parts of an earlier run that measured the same; from parts/, else experiments.json."""
        found = {}
        try:
            found.update(json.loads(self.path.read_text())["parts"])
        except (OSError, ValueError, KeyError):
            pass
        for file in sorted(self.folder.glob("*.json")):
            try:
                found[file.stem] = json.loads(file.read_text())
            except (OSError, ValueError):
                pass  # torn: measured again
        for name, part in found.items():
            if part.get("complete") and part.get("fingerprint") == self.fingerprint:
                self.content["parts"][name] = part
        return set(self.content["parts"])

    def add(self, name, part):
        part["fingerprint"] = self.fingerprint
        self.content["parts"][name] = part
        self.content["skipped"].pop(name, None)
        write_json(self.folder / f"{name}.json", part)
        self.write()

    def write(self):
        self.content["comparison"] = compare(self.content["parts"])
        write_json(self.path, self.content)


def answers(part):
    """{(server, burst, client, round): digest} of the requests that were answered."""
    return {(burst["server"], burst["number"], row["client"], row["round"]): row["digest"]
            for burst in part.get("bursts", []) for row in burst["requests"] if "digest" in row}


def compare(parts):
    """How many answers each part shares with the static run, and are the same.

    Requests are independent of what else runs, so the same request of another experiment counts:
    the static run of model A vouches for A in all experiments.
    """
    result = {}
    for name, part in parts.items():
        experiment, contestant = name.split(".")
        if contestant == "static" or not part.get("bursts"):
            continue
        reference, probes = {}, {}
        for other in ("single.static", "alternating.static", f"{experiment}.static"):
            if other in parts and same_load(part, parts[other]):
                reference.update(answers(parts[other]))
                probes.update(parts[other].get("probes", {}))
        mine = answers(part)
        shared = [key for key in mine if key in reference]
        found = {"answers": len(shared),
                 "same": sum(mine[key] == reference[key] for key in shared)}
        pairs = [(a, b) for server, list_ in part.get("probes", {}).items()
                 for a, b in zip(list_, probes.get(server, []))]
        found.update(probes=len(pairs), same_probes=sum(a == b for a, b in pairs))
        result[name] = found
    return result


def same_load(one, other):
    """The oversized experiment asks a real server other things than the rest does."""
    def heavy(part):
        return part["experiment"] == "oversized" and any(
            "probes" in part and part["probes"].get(server) for server in part["servers"])
    return heavy(one) == heavy(other)
