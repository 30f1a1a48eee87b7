#!/usr/bin/env python3
"""Docker's client against dockerd and against this engine, line by line: what may differ stands in docker-cli.accepted.

    tests/peers/compare.py DOCKERD-SOCKET OUR-SOCKET     runs docker-cli.sh against both, which EMPTIES both
    tests/peers/compare.py --files DOCKERDS OURS         compares what it printed before

Fails on a difference that is not accepted, and on an accepted one that does not occur any more.

docker-cli.accepted holds one difference a line, groups of them below the reason why:

    COMMAND | LINE     regular expressions that match whole; LINE is one of the differing lines, with `-` in front where
                       dockerd prints it and `+` where we do
"""
import difflib
import pathlib
import re
import subprocess
import sys

FOLDER = pathlib.Path(__file__).resolve().parent


def blocks(text):
    """What each command printed, in order."""
    found = []
    for line in text.splitlines():
        if line.startswith("$ docker "):
            found.append((line[2:], []))
        elif found:
            found[-1][1].append(line)
    return found


def accepted():
    rules = []
    for number, line in enumerate((FOLDER / "docker-cli.accepted").read_text().splitlines(), 1):
        if line and not line.startswith("#"):
            command, separator, changed = line.partition(" | ")
            if not separator:
                sys.exit(f"docker-cli.accepted:{number}: no ` | ` in it")
            rules.append([re.compile(command), re.compile(changed), line, False])
    return rules


def run(socket):
    print(f"docker-cli.sh {socket}", file=sys.stderr)
    done = subprocess.run(["bash", FOLDER / "docker-cli.sh", socket], capture_output=True, text=True, check=False)
    sys.stderr.write(done.stderr)
    return done.stdout


def main():
    arguments = sys.argv[1:]
    if arguments[:1] == ["--files"] and len(arguments) == 3:
        theirs, ours = (pathlib.Path(file).read_text() for file in arguments[1:])
    elif len(arguments) == 2:
        theirs, ours = (run(socket) for socket in arguments)
    else:
        sys.exit(__doc__)
    theirs, ours, rules = blocks(theirs), blocks(ours), accepted()
    if [command for command, _ in theirs] != [command for command, _ in ours] or not theirs:
        sys.exit(f"not the same commands: {len(theirs)} and {len(ours)}")
    failed = 0
    for (command, before), (_, after) in zip(theirs, ours):
        lines = [line for line in difflib.ndiff(before, after) if line[0] in "-+"]
        left = []
        for line in (line[0] + line[2:] for line in lines):
            covers = [rule for rule in rules if rule[0].fullmatch(command) and rule[1].fullmatch(line)]
            for rule in covers:
                rule[3] = True
            if not covers:
                left.append(line)
        if left:
            failed += 1
            print(f"$ {command}", *left, sep="\n    ")
    unused = [rule[2] for rule in rules if not rule[3]]
    for rule in unused:
        print(f"accepted, but does not occur: {rule}")
    print(f"{len(theirs)} commands, {failed} answered otherwise", file=sys.stderr)
    sys.exit(1 if failed or unused else 0)


if __name__ == "__main__":
    main()
