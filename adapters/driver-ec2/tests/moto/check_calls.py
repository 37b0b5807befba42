"""Checks calls, as JSON on standard input, against the description of EC2 in botocore: operations and
parameters must be known, required parameters present, and values of the right type. Prints one line per
problem."""

import base64
import json
import re
import sys

from botocore.loaders import Loader
from botocore.model import ServiceModel

MODEL = ServiceModel(Loader().load_service_model("ec2", "service-2"), "ec2")


def wire_name(name, shape):
    """Name of a member in the protocol `ec2`."""
    query_name = shape.serialization.get("queryName")
    name = query_name or shape.serialization.get("name", name)
    return name if query_name else name[:1].upper() + name[1:]


def tree(params):
    root = {}
    for name, value in params.items():
        node = root
        *parents, last = name.split(".")
        for part in parents:
            node = node.setdefault(part, {})
        node[last] = value
    return root


def check(path, node, shape, say):
    kind = shape.type_name
    if kind in ("structure", "list") and not isinstance(node, dict):
        say(f"{path} has parts, found {node!r}")
    elif kind == "structure":
        members = {wire_name(name, member): member for name, member in shape.members.items()}
        for name, part in node.items():
            if name not in members:
                say(f"{path}{name} is not known")
                continue
            separator = "." if members[name].type_name in ("structure", "list") else ""
            check(f"{path}{name}{separator}", part, members[name], say)
        for name in shape.required_members:
            if wire_name(name, shape.members[name]) not in node:
                say(f"{path}{wire_name(name, shape.members[name])} is required")
    elif kind == "list":
        if sorted(node, key=int) != [str(n) for n in range(1, len(node) + 1)]:
            say(f"{path} is not numbered from 1: {sorted(node)}")
        for number, part in node.items():
            separator = "." if shape.member.type_name in ("structure", "list") else ""
            check(f"{path}{number}{separator}", part, shape.member, say)
    elif isinstance(node, dict):
        say(f"{path} has no parts, found {sorted(node)}")
    else:
        check_value(path, node, shape, say)


def check_value(path, value, shape, say):
    kind = shape.type_name
    if kind in ("integer", "long", "double", "float"):
        try:
            float(value)
        except ValueError:
            say(f"{path} is not a number: {value!r}")
    elif kind == "boolean" and value not in ("true", "false"):
        say(f"{path} is neither true nor false: {value!r}")
    elif kind == "timestamp" and not re.match(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d", value):
        say(f"{path} is no time: {value!r}")
    elif kind == "blob":
        try:
            base64.b64decode(value, validate=True)
        except ValueError:
            say(f"{path} is not base64")
    elif kind == "string" and shape.enum and value not in shape.enum:
        say(f"{path} is none of its values: {value!r}")


def main():
    for call in json.load(sys.stdin):
        params = dict(call)
        action = params.pop("Action")
        say = lambda words: print(f"{action}: {words}")
        if params.pop("Version", None) != MODEL.api_version:
            say("the version is another")
        if action not in MODEL.operation_names:
            say("there is no operation with this name")
            continue
        try:
            check("", tree(params), MODEL.operation_model(action).input_shape, say)
        except (ValueError, TypeError, AttributeError) as error:
            say(f"cannot be read: {error}")


main()
