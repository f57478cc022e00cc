"""Validates the objects on standard input: `kubectl kustomize overlays/dev | python3 validate.py VERSION`.

Kubernetes' own kinds against the schemas of that version, strictly (package kubernetes-validate); others against the small
ones in schemas/. Prints each object, and ends with 1 when one does not fit.
"""

import json
import pathlib
import sys

import jsonschema
import kubernetes_validate
import yaml

SCHEMAS = pathlib.Path(__file__).parent / "schemas"


def problem(resource, version):
    """What does not fit, or nothing."""
    try:
        if "." in resource["apiVersion"].split("/")[0] and not resource["apiVersion"].split("/")[0].endswith(".k8s.io"):
            schema = SCHEMAS / f"{resource['kind']}.json"
            if not schema.exists():
                return f"there is no schema of it: add {schema.name} to schemas/"
            jsonschema.validate(resource, json.loads(schema.read_text()))
        else:
            kubernetes_validate.validate(resource, version, strict=True)
    except (jsonschema.ValidationError, kubernetes_validate.ValidationError) as error:
        return f"{'.'.join(str(step) for step in error.path)}: {error.message}"
    return None


def main():
    version = sys.argv[1]
    failed = False
    for resource in filter(None, yaml.safe_load_all(sys.stdin)):
        found = problem(resource, version)
        failed = failed or found is not None
        print(f"{resource['kind']}/{resource['metadata']['name']}: {found or 'fits'}")
    sys.exit(1 if failed else 0)


main()
