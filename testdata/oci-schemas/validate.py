"""Validates every document of OCI layouts against the specification's schemas.

    python3 validate.py LAYOUT...

Exits with 1 and one line per violation. Needs python3-jsonschema.
"""

import json
import pathlib
import sys
import warnings

import jsonschema

warnings.simplefilter("ignore", DeprecationWarning)
FOLDER = pathlib.Path(__file__).resolve().parent
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"


def without_ids(schema):
    """Drops `id`s, so that references mean the files beside this one rather than addresses."""
    if isinstance(schema, dict):
        return {k: without_ids(v) for k, v in schema.items() if k != "id" or not isinstance(v, str)}
    return [without_ids(item) for item in schema] if isinstance(schema, list) else schema


SCHEMAS = {path.name: without_ids(json.loads(path.read_text())) for path in FOLDER.glob("*.json")}
STORE = {f"{FOLDER.as_uri()}/{name}": schema for name, schema in SCHEMAS.items()}


def violations(document, name):
    resolver = jsonschema.RefResolver(f"{FOLDER.as_uri()}/{name}", SCHEMAS[name], store=STORE)
    formats = jsonschema.FormatChecker()
    validator = jsonschema.Draft4Validator(SCHEMAS[name], resolver=resolver, format_checker=formats)
    for error in validator.iter_errors(document):
        yield f"{'/'.join(map(str, error.absolute_path))}: {error.message}"


def check(layout):
    """Yields what is wrong, and counts what was looked at."""
    count = 0
    queue = [("oci-layout", "image-layout-schema.json"), ("index.json", "image-index-schema.json")]
    while queue:
        path, schema = queue.pop()
        document = json.loads((layout / path).read_bytes())
        count += 1
        found = [f"{layout}/{path}: {violation}" for violation in violations(document, schema)]
        yield from found
        if found:
            return
        below = document.get("manifests", [])
        if "config" in document and "layers" in document:
            below = [document["config"]]
        for descriptor in below:
            kind = {
                MANIFEST: "image-manifest-schema.json",
                INDEX: "image-index-schema.json",
                CONFIG: "config-schema.json",
            }.get(descriptor["mediaType"])
            if kind:
                queue.append(("blobs/" + descriptor["digest"].replace(":", "/"), kind))
    if count < 4:
        yield f"{layout}: only {count} documents"


FOUND = [violation for layout in sys.argv[1:] for violation in check(pathlib.Path(layout))]
print("\n".join(FOUND))
sys.exit(1 if FOUND or not sys.argv[1:] else 0)
