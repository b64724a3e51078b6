"""Command lines of deploy/ against the programs: every option and command that a unit, a manifest, a script or a page
gives is one that the program's --help has."""
import functools
import os
import re
import subprocess

PROGRAMS = {"octoflow": "client", "octoflow-broker": "broker", "octoflow-worker": "worker"}


class Programs:
    def __init__(self, build):
        self.build = os.path.abspath(build)

    def path(self, program):
        return os.path.join(self.build, PROGRAMS[program], program)

    @functools.lru_cache(maxsize=None)
    def help(self, program, *command):
        done = subprocess.run([self.path(program), *command, "--help"], capture_output=True, text=True)
        return done.stdout if done.returncode == 0 else ""

    def options(self, program, *command):
        """Long and short options of a program, or of one of its commands."""
        return set(re.findall(r"(?<![\w-])(--?[a-z][\w-]*)", self.help(program, *command)))

    def problems(self, words):
        """What is wrong with a command line: a list of lines."""
        program = os.path.basename(words[0])
        if program not in PROGRAMS:
            return [f"{words[0]}: no program of ours"]
        rest, command = words[1:], ()
        if program == "octoflow":
            if not rest or not self.help(program, rest[0]):
                return [f"{' '.join(words[:2])}: no such command"]
            command, rest = (rest[0],), rest[1:]
        known = self.options(program, *command)
        return [f"{program} {' '.join(command)}: no option {word}" for word in rest
                if re.fullmatch(r"--?[a-z].*", word) and word.split("=")[0] not in known]
