#!/usr/bin/env python3
"""The Containerfile, the compose file and the Kubernetes manifests: YAML that says what it should, no keys that nobody
knows; every option one of the programs'; every name one that is defined; the packages of the image those that the
programs need; keys and models beside them in no image, and not in the repository. Nothing of it is run here
(deploy_boot and deploy_slurm run things): no container engine, no network."""
import os
import re
import subprocess
import sys

import yaml

import commands

# Keys that we use of each object; another one is a typing error, or belongs here.
KNOWN = {
    "compose": {"services", "volumes", "x-worker"},
    "service": {"image", "build", "restart", "command", "stop_grace_period", "read_only", "cap_drop", "security_opt",
                "ports", "volumes", "healthcheck", "profiles", "deploy", "devices", "group_add", "tmpfs",
                "depends_on", "entrypoint"},
    "healthcheck": {"test", "interval", "start_period"},
    "pod": {"terminationGracePeriodSeconds", "automountServiceAccountToken", "securityContext", "containers", "volumes",
            "nodeSelector", "tolerations"},
    "container": {"name", "image", "command", "ports", "env", "startupProbe", "livenessProbe", "readinessProbe",
                  "resources", "securityContext", "volumeMounts"},
    "probe": {"httpGet", "periodSeconds", "failureThreshold"},
    "StatefulSet": {"serviceName", "replicas", "selector", "template", "volumeClaimTemplates"},
    "DaemonSet": {"selector", "template", "updateStrategy"},
    "Service": {"selector", "ports", "publishNotReadyAddresses"},
    "NetworkPolicy": {"podSelector", "policyTypes", "ingress", "egress"},
}
API = {"Service": "v1", "StatefulSet": "apps/v1", "DaemonSet": "apps/v1", "NetworkPolicy": "networking.k8s.io/v1"}
problems = []


def check(good, text):
    if not good:
        problems.append(text)


def known(what, kind, value):
    check(set(value) <= KNOWN[kind], f"{what}: unknown: {sorted(set(value) - KNOWN[kind])}")


class Unique(yaml.SafeLoader):
    """A key that is there twice is a mistake, not the last one's victory."""


def unique_mapping(loader, node, deep=False):
    keys = [k.value for k, _ in node.value]
    check(len(keys) == len(set(keys)), f"line {node.start_mark.line + 1}: a key twice: {keys}")
    loader.flatten_mapping(node)
    return yaml.SafeLoader.construct_mapping(loader, node, deep)


Unique.add_constructor("tag:yaml.org,2002:map", unique_mapping)


def load(path):
    with open(path, encoding="utf-8") as f:
        return list(yaml.load_all(f, Loader=Unique))


def seconds(text):
    return int(text[:-1]) * {"s": 1, "m": 60}[text[-1]]


def option(command, name):
    return command[command.index(name) + 1] if name in command else None


# ---- the image ----

def instructions(path):
    with open(path, encoding="utf-8") as f:
        text = re.sub(r"^#.*\n", "", f.read(), flags=re.M).replace("\\\n", " ")
    return [tuple(line.split(None, 1)) for line in text.split("\n") if line.strip()]


def packages(text):
    found = re.search(r"--no-install-recommends\s+(.*?)(&&|$)", text)
    return set(found.group(1).split()) if found else set()


def needed(program):
    """The Debian packages of the libraries that a program asks for."""
    asked = re.findall(r"NEEDED.*\[(.*)\]", subprocess.run(["readelf", "-d", program], capture_output=True,
                                                          text=True).stdout)
    where = dict(re.findall(r"(\S+) => (\S+)", subprocess.run(["ldd", program], capture_output=True, text=True).stdout))
    owners = set()
    for library in asked:
        if library.startswith("ld-linux"):
            continue
        path = os.path.realpath(where.get(library, library))
        for name in (path, path.removeprefix("/usr")):
            done = subprocess.run(["dpkg", "-S", name], capture_output=True, text=True)
            if done.returncode == 0:
                owners.add(done.stdout.split(":")[0])
                break
        else:
            check(False, f"{library} ({path}) is of no package")
    return owners - {"libc6", "libgcc-s1", "libstdc++6"}


def check_image(source, programs):
    lines = instructions(os.path.join(source, "deploy", "container", "Containerfile"))
    allowed = {"FROM", "RUN", "COPY", "ENV", "USER", "WORKDIR", "CMD"}
    check({word for word, _ in lines} <= allowed, f"Containerfile: {lines}")
    stages = [i for i, (word, _) in enumerate(lines) if word == "FROM"]
    check(len(stages) == 2 and all(re.match(r"debian:12(-slim)?( |$)", lines[i][1]) for i in stages), "its stages")
    build, image = lines[:stages[1]], lines[stages[1]:]
    copies = [rest for word, rest in image if word == "COPY"]
    check(copies and all(rest.startswith("--from=build ") for rest in copies), "COPY into the image not from the build")
    user = [rest for word, rest in image if word == "USER"]
    check(user == ["65532:65532"], f"USER {user}")
    runs = " && ".join(rest for word, rest in image if word == "RUN")
    check("rm -rf /var/lib/apt/lists" in runs, "apt's lists stay in the image")
    with open(os.path.join(source, "dev"), encoding="utf-8") as f:
        of_dev = set(re.search(r'^PACKAGES="([^"]*)"', f.read(), re.M).group(1).split())
    of_build = packages(" && ".join(rest for word, rest in build if word == "RUN"))
    check(of_build == of_dev, f"packages of the build and of ./dev differ: {of_build ^ of_dev}")
    wanted = set().union(*(needed(programs.path(name)) for name in commands.PROGRAMS))
    check(len(wanted) > 5 and wanted <= packages(runs), f"the image lacks {wanted - packages(runs)}")
    environment = " ".join(rest for word, rest in image if word == "ENV")
    check("graphics" in environment and "utility" in environment, "NVIDIA: Vulkan is part of graphics, NVML of utility")


# ---- compose ----

def check_compose(source, programs):
    whole, = load(os.path.join(source, "deploy", "container", "docker-compose.yaml"))
    known("compose", "compose", whole)
    for name, service in whole["services"].items():
        known(name, "service", service)
        command = service.get("entrypoint", []) + service.get("command", [])
        problems.extend(f"{name}: {p}" for p in programs.problems(command))
        check(all(isinstance(word, str) for word in command), f"{name}: command: only texts")
        check(service["restart"] == "unless-stopped", f"{name}: not there again when the machine has restarted")
        for volume in service["volumes"]:
            at = volume.split(":")[0]
            check(at.startswith("./") or at in whole["volumes"], f"{name}: no volume {at}")
        mounted = {volume.split(":")[1] for volume in service["volumes"]}
        writable = {volume.split(":")[1] for volume in service["volumes"] if not volume.endswith(":ro")}
        check("/var/lib/octoflow" in writable, f"{name}: no room for ledger, or fetched models")
        for word in command:
            if word.startswith("/"):
                check(any(word == m or word.startswith(m + "/") for m in mounted), f"{name}: nothing mounted at {word}")
        drain = option(command, "--drain-s")
        check(drain is None or seconds(service["stop_grace_period"]) > int(drain) + 10, f"{name}: no time to drain")
        check(set(service.get("depends_on", {})) <= set(whole["services"]), f"{name}: depends on nobody")
        check(service["cap_drop"] == ["ALL"] and service["read_only"] is True, f"{name}: rights")
    known("healthcheck", "healthcheck", whole["services"]["broker"]["healthcheck"])
    port = option(whole["services"]["broker"]["command"], "--metrics").split(":")[1]
    check(f"/{port} " in whole["services"]["broker"]["healthcheck"]["test"][3], "the health check's port")


def check_ignored(source):
    """What lies beside the compose file, keys among it, goes neither into an image nor into the repository."""
    whole, = load(os.path.join(source, "deploy", "container", "docker-compose.yaml"))
    folders = {volume.split(":")[0].split("/")[1] for service in whole["services"].values()
               for volume in service["volumes"] if volume.startswith("./")}
    check({"keys", "models"} <= folders, f"folders of volumes: {folders}")
    for name, keys in ((".gitignore", "*.key"), (".dockerignore", "**/*.key")):
        path = os.path.join(source, name)
        text = open(path, encoding="utf-8").read() if os.path.exists(path) else ""
        patterns = {line.strip("/") for line in text.split("\n")}
        lacks = ({f"deploy/container/{folder}" for folder in folders} | {keys}) - patterns
        check(not lacks, f"{name} lacks {sorted(lacks)}")


# ---- Kubernetes ----

def check_pod(name, spec, claims, programs):
    known(name, "pod", spec)
    check(spec["securityContext"]["runAsNonRoot"] is True, f"{name}: as root")
    volumes = {v["name"] for v in spec["volumes"]} | claims
    for c in spec["containers"]:
        known(name, "container", c)
        problems.extend(f"{name}: {p}" for p in programs.problems(c["command"]))
        check(all(isinstance(word, str) for word in c["command"]), f"{name}: command: only texts")
        check({m["name"] for m in c["volumeMounts"]} == volumes, f"{name}: volumes and mounts differ")
        mounts = [m["mountPath"] for m in c["volumeMounts"]]
        writable = [m["mountPath"] for m in c["volumeMounts"] if not m.get("readOnly")]
        check("/var/lib/octoflow" in writable, f"{name}: no room for ledger, or fetched models")
        for word in c["command"]:
            if word.startswith("/"):
                check(any(word == m or word.startswith(m + "/") for m in mounts), f"{name}: nothing mounted at {word}")
        ports = {p["name"]: p["containerPort"] for p in c["ports"]}
        check(ports["metrics"] == int(option(c["command"], "--metrics").split(":")[1]), f"{name}: port of metrics")
        for probe, path in (("startupProbe", "/healthz"), ("livenessProbe", "/healthz"), ("readinessProbe", "/readyz")):
            known(f"{name} {probe}", "probe", c[probe])
            check(c[probe]["httpGet"] == {"path": path, "port": "metrics"}, f"{name}: {probe}")
        rights = c["securityContext"]
        check(rights == {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True,
                         "capabilities": {"drop": ["ALL"]}}, f"{name}: rights {rights}")
        drain = option(c["command"], "--drain-s")
        check(drain is None or spec["terminationGracePeriodSeconds"] > int(drain) + 10, f"{name}: no time to drain")
        used = set(re.findall(r"\$\((\w+)\)", " ".join(c["command"])))
        check(used <= {e["name"] for e in c.get("env", [])}, f"{name}: variables {used}")
    return {p["containerPort"] for c in spec["containers"] for p in c["ports"]}


def check_policy(document, apps):
    name, spec = f"NetworkPolicy {document['metadata']['name']}", document["spec"]
    app = spec["podSelector"]["matchLabels"]["app"]
    check(app in apps, f"{name}: for nobody")
    opened = {p["port"] for rule in spec["ingress"] for p in rule["ports"]}
    check(opened == apps.get(app), f"{name}: opens {opened}, the pod has {apps.get(app)}")
    for rule in spec["egress"]:
        for to in rule["to"]:
            target = to["podSelector"]["matchLabels"].get("app")
            check(target is None or {p["port"] for p in rule["ports"]} <= apps[target], f"{name}: to {target}")


def check_kubernetes(source, programs):
    documents = load(os.path.join(source, "deploy", "kubernetes", "octoflow.yaml"))
    check(len(documents) == 5, f"{len(documents)} documents")
    apps, services = {}, {}
    for d in documents:
        name = f"{d['kind']} {d['metadata']['name']}"
        check(d["apiVersion"] == API[d["kind"]] and d["metadata"]["namespace"] == "octoflow", f"{name}: kind")
        known(name, d["kind"], d["spec"])
        if "template" in d["spec"]:
            labels = d["spec"]["template"]["metadata"]["labels"]
            check(d["spec"]["selector"]["matchLabels"] == labels, f"{name}: selector and labels")
            claims = {c["metadata"]["name"] for c in d["spec"].get("volumeClaimTemplates", [])}
            apps[labels["app"]] = check_pod(name, d["spec"]["template"]["spec"], claims, programs)
        elif d["kind"] == "Service":
            services[d["metadata"]["name"]] = d["spec"]
    for d in documents:
        spec = d["spec"]
        if d["kind"] == "StatefulSet":
            check(spec["serviceName"] in services and spec["replicas"] == 1, "StatefulSet: service, replicas")
        elif d["kind"] == "DaemonSet":
            host, port = re.match(r"tcp://([\w-]+)\.octoflow\.svc:(\d+)$", option(
                spec["template"]["spec"]["containers"][0]["command"], "--broker")).groups()
            check(int(port) in {p["port"] for p in services[host]["ports"]}, "DaemonSet: the broker's address")
        elif d["kind"] == "Service":
            check(spec["selector"]["app"] in apps, "Service: for nobody")
        else:
            check_policy(d, apps)


def main():
    source, build = sys.argv[1:3]
    programs = commands.Programs(build)
    check_image(source, programs)
    check_compose(source, programs)
    check_ignored(source)
    check_kubernetes(source, programs)
    print("\n".join(problems + [f"{len(problems)} problems"]))
    sys.exit(1 if problems else 0)


main()
