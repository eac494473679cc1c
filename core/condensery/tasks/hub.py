"""Copies of data sets on the Hugging Face Hub: which one is meant, to the byte, and whether the hub answers."""

from __future__ import annotations

import dataclasses
import os
import socket
import threading
import urllib.parse
import urllib.request
from collections.abc import Mapping
from pathlib import Path


@dataclasses.dataclass(frozen=True)
class Hub:
    """A data set's copy on the Hugging Face Hub, pinned.

    :param name: ``owner/name``.
    :param revision: the commit, in 40 hexadecimal digits: a branch would move.
    :param files: the sha256 by ``<config>/<split>``, which is what the hub names a split's one Parquet file after;
        empty where none is known, and then the task checks what is in it.
    """

    name: str
    revision: str
    files: Mapping[str, str]

    def fetch(self, file: str) -> Path:
        """Return where a file lies, once it was downloaded into the hub's own cache.

        :param file: one of ``files``.
        """
        from huggingface_hub import hf_hub_download

        path = f"{file}-00000-of-00001.parquet"
        return Path(hf_hub_download(self.name, path, repo_type="dataset", revision=self.revision))


def hub_reachable(timeout: float = 1.5) -> bool:
    """Tell whether the Hugging Face Hub, or the proxy in front of it, takes connections; true in its offline mode.

    :param timeout: seconds, name lookup included.
    """
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"}:
        return True
    endpoint = urllib.parse.urlsplit(os.environ.get("HF_ENDPOINT") or "https://huggingface.co")
    proxy = urllib.request.getproxies().get(endpoint.scheme)
    if proxy and not urllib.request.proxy_bypass(endpoint.hostname or ""):
        endpoint = urllib.parse.urlsplit(proxy if "//" in proxy else f"//{proxy}")
    address = (endpoint.hostname or "", endpoint.port or (80 if endpoint.scheme == "http" else 443))
    answered = threading.Event()

    def knock() -> None:
        try:
            socket.create_connection(address, timeout=timeout).close()
            answered.set()
        except OSError:
            pass

    # A thread, because a name lookup has no timeout of its own.
    thread = threading.Thread(target=knock, daemon=True)
    thread.start()
    thread.join(timeout)
    return answered.is_set()
