"""
What a failure of Redis means to the operator: what is wrong with the server, and what to do about it.
"""

from __future__ import annotations

from typing import Final

import redis

# By the word that Redis's own message begins with.
_BY_WORD: Final = {
    "WRONGPASS": "refused user or password: correct them in the store's URL",
    "NOAUTH": "wants a password: put it into the store's URL, redis://:password@host",
    "NOPERM": "does not allow this user its keys or commands: extend its ACL (~{canary}:* +@all -@dangerous)",
    "READONLY": "is a replica, which cannot be written: name the primary, or redis+sentinel:// to have it found",
    "OOM": "has no memory left: raise maxmemory, or free some",
    "MISCONF": "refuses writes because it cannot save to its disk: free space there, or correct its `dir`",
    "LOADING": "is still loading its data: it will answer by itself",
    "BUSY": "is busy with a script of somebody else: `redis-cli SCRIPT KILL`",
    "MASTERDOWN": "is a replica that has lost its primary: bring that back",
    "CLUSTERDOWN": "is a cluster that misses nodes: bring them back",
    "WRONGTYPE": "holds keys of another application under our prefix: set ?prefix= in the store's URL",
}
_WORDS: Final = {
    "invalid username-password": _BY_WORD["WRONGPASS"],
    "invalid password": _BY_WORD["WRONGPASS"],
    "without any password configured": (
        "has no password, the store's URL gives one: take it out there, or set requirepass"
    ),
    "must be called with the client already authenticated": _BY_WORD["NOAUTH"],
    "authentication required": _BY_WORD["NOAUTH"],
    "read only replica": _BY_WORD["READONLY"],
    "out of memory": _BY_WORD["OOM"],
    "used memory >": _BY_WORD["OOM"],
    "loading the dataset": _BY_WORD["LOADING"],
    "permissions": _BY_WORD["NOPERM"],
    "redis cluster cannot be connected": "cannot be reached: start its nodes, or correct the hosts in the store's URL",
    "no master found": "has no primary that its sentinels know: look at `SENTINEL MASTERS`, and at the name in the URL",
    "cluster mode": "is a cluster: write redis+cluster:// in the store's URL",
}


def explain(url: str, error: Exception) -> str:
    """A sentence about the server at *url*: what happened, and who must do what."""
    said = str(error)
    if isinstance(error, redis.TimeoutError):
        remedy = "did not answer in time: look at its load (`redis-cli --latency`, `SLOWLOG GET`) and at the network"
    else:
        remedy = _BY_WORD.get(said.partition(" ")[0], "") or _in_words(said.lower())
    if not remedy and isinstance(error, redis.ConnectionError | OSError):
        remedy = "cannot be reached: start it, or correct the host and port in the store's URL"
    return f"the store {url} {remedy or 'failed'} ({said})"


def _in_words(said: str) -> str:
    return next((remedy for words, remedy in _WORDS.items() if words in said), "")
