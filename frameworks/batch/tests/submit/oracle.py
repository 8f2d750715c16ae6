"""Writes expected.json: what HTCondor itself makes of every case of corpus.txt.

Run it with the wheel (`pip install htcondor==24.0.24`) from any folder:
    python -W ignore oracle.py > expected.json
"""
import json
import os
import re
import subprocess
import sys

here = os.path.dirname(os.path.abspath(__file__))
world = os.path.join(here, "world")


def v2_words(text):
    """HTCondor's raw V2 syntax: blanks separate, single quotes group."""
    words, word, i = [], None, 0
    while i < len(text):
        c = text[i]
        if c.isspace():
            if word is not None:
                words.append(word)
            word = None
            i += 1
            continue
        word = word or ""
        if c != "'":
            word += c
            i += 1
            continue
        i += 1
        while True:
            if text[i] == "'" and text[i + 1 : i + 2] == "'":
                word += "'"
                i += 2
            elif text[i] == "'":
                i += 1
                break
            else:
                word += text[i]
                i += 1
    if word is not None:
        words.append(word)
    return words


def number(value):
    value = str(value)
    try:
        return round(float(eval(value, {"__builtins__": {}})), 3)
    except Exception:
        return None


def path(iwd, value):
    value = os.path.join(iwd, value)
    return None if value == "/dev/null" else value.replace(world, "@")


def job(ad):
    iwd = ad["Iwd"]
    if "Args" in ad:
        arguments = str(ad["Args"]).split()
    else:
        arguments = v2_words(str(ad.get("Arguments", "")))
    environment = sorted(v2_words(str(ad.get("Environment", ""))))
    return {
        "executable": str(ad["Cmd"]).replace(world, "@"),
        "arguments": [a.replace(world, "@") for a in arguments],
        "environment": environment,
        "iwd": iwd.replace(world, "@"),
        "input": path(iwd, ad["In"]),
        "output": path(iwd, ad["Out"]),
        "error": path(iwd, ad["Err"]),
        "log": path(iwd, ad["UserLog"]) if "UserLog" in ad else None,
        "cpus": number(ad["RequestCpus"]),
        "memory": number(ad["RequestMemory"]),
        "disk": number(ad["RequestDisk"]),
        "transfer_input": [path(iwd, p) if "://" not in p else p for p in str(ad["TransferInput"]).split(",")]
        if "TransferInput" in ad
        else None,
        "transfer_output": str(ad["TransferOutput"]).split(",") if "TransferOutput" in ad else None,
        "prio": int(ad["JobPrio"]),
        "max_retries": int(ad["JobMaxRetries"]) if "JobMaxRetries" in ad else None,
        "success_exit_code": int(ad["JobSuccessExitCode"]) if "JobSuccessExitCode" in ad else None,
        "held": int(ad["JobStatus"]) == 5,
        "batch_name": str(ad["JobBatchName"]) if "JobBatchName" in ad else None,
    }


def main():
    text = open(os.path.join(here, "corpus.txt")).read()
    cases = re.split(r"^=== (.*)\n", text, flags=re.M)[1:]
    if len(sys.argv) > 1:  # one case in a process of its own: the wheel keeps state
        import htcondor

        body = cases[int(sys.argv[1]) * 2 + 1]
        try:
            print(json.dumps([job(ad) for ad in htcondor.Submit(body).jobs(clusterid=7)]))
        except Exception as error:
            print(json.dumps({"error": str(error).strip().split("\n")[0].replace(world, "@")}))
        return
    out = {}
    variables = {"CONDOR_CONFIG": "/dev/null", "HOME": "/home/u", "FOO1": "one", "FOO2": "two words"}
    for n, name in enumerate(cases[::2]):
        done = subprocess.run(
            [sys.executable, "-W", "ignore", os.path.join(here, "oracle.py"), str(n)],
            cwd=world, env=variables, capture_output=True, text=True,
        )
        lines = done.stdout.strip().split("\n")
        out[name] = json.loads(lines[-1]) if lines[-1] else {"error": f"died: {done.stderr[-200:]}"}
    print(json.dumps(out, indent=1, sort_keys=True))


main()
