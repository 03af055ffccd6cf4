"""The artifacts of the tests' W&B server: collections, versions, aliases, and the files of each version by content."""

import base64
import dataclasses
import hashlib
import json
import threading
import urllib.parse
from typing import Any

KNOWN = (
    "ArtifactType",
    "CreateArtifact",
    "CreateArtifactManifest",
    "CreateArtifactFiles",
    "UpdateArtifactManifest",
    "CommitArtifact",
    "UseArtifact",
    "ArtifactByID",
)


@dataclasses.dataclass
class RemoteArtifact:
    """A version of an artifact.

    Attributes:
        id: at the server.
        name: its collection.
        type: such as model.
        run: id of the run that made it.
        digest: of its manifest, by which a version that exists already is found.
        metadata: as sent.
        version: number within its collection; None until it is complete.
        files: content of each file by path, once it is complete.
        used_by: ids of the runs that have it as input.
        times_logged: how often a run has sent it.
    """

    id: str
    name: str
    type: str
    run: str
    digest: str
    metadata: dict[str, Any]
    version: int | None = None
    files: dict[str, bytes] = dataclasses.field(default_factory=dict)
    used_by: set[str] = dataclasses.field(default_factory=set)
    times_logged: int = 1


class ArtifactStore:
    """Answers the queries of artifacts; `complete` has the versions in the order of their commits.

    Attributes:
        blobs: content by its MD5, in base64. W&B stores a content once.
        aliases: artifact by (collection, alias).
        refuse: number of uploads that fail from now on.
        gate: if set, uploads wait for it.
    """

    def __init__(self, entity: str, project: str):
        self.blobs: dict[str, bytes] = {}
        self.aliases: dict[tuple[str, str], RemoteArtifact] = {}
        self.complete: list[RemoteArtifact] = []
        self.refuse = 0
        self.gate: threading.Event | None = None
        self._entity, self._project = entity, project
        self._by_id: dict[str, RemoteArtifact] = {}
        self._wanted: dict[str, set[str]] = {}  # aliases to set at the commit, by the id
        self._manifests: dict[str, bytes] = {}  # by the artifact's id

    def named(self, name: str) -> list[RemoteArtifact]:
        """Return the versions of a collection."""
        return [artifact for artifact in self.complete if artifact.name == name]

    def of_type(self, kind: str) -> list[RemoteArtifact]:
        return [artifact for artifact in self.complete if artifact.type == kind]

    def aliases_of(self, artifact: RemoteArtifact) -> set[str]:
        return {alias for (_, alias), found in self.aliases.items() if found is artifact}

    def answer(self, query: str, variables: dict[str, Any], host: str) -> dict[str, Any]:
        sent = variables.get("input") or variables
        field = query[0].lower() + query[1:]
        match query:
            case "ArtifactType":
                answer = {"project": {"artifact": self._type(sent["name"])}}
            case "CreateArtifact":
                answer = {field: {"artifact": self._create(sent)}}
            case "CreateArtifactManifest" | "UpdateArtifactManifest":
                answer = {field: {"artifactManifest": self._manifest(sent, host)}}
            case "CreateArtifactFiles":
                answer = {
                    field: {"files": {"edges": [{"node": self._file(file, host)} for file in sent["artifactFiles"]]}}
                }
            case "CommitArtifact":
                answer = {field: {"artifact": self._commit(sent["artifactID"])}}
            case "UseArtifact":
                answer = {field: {"artifact": self._use(**sent)}}
            case _:
                answer = {"artifact": self._record(self._by_id[sent["id"]])}
        return answer

    def upload(self, path: str, body: bytes) -> int:
        """Store a file or a manifest that was uploaded to `path`, /artifact/KIND/ID; return the HTTP status."""
        if self.refuse:
            self.refuse -= 1
            return 403
        _, _, kind, key = path.split("/", 3)
        if kind == "manifest":
            self._manifests[key] = body
            return 200
        digest = urllib.parse.unquote(key)
        if digest != _md5(body):
            return 400
        self.blobs[digest] = body
        return 200

    def _type(self, name: str) -> dict[str, Any] | None:
        versions = self.named(name.partition(":")[0])
        return {"artifactType": {"name": versions[0].type}} if versions else None

    def _create(self, sent: dict[str, Any]) -> dict[str, Any]:
        name, digest = sent["artifactCollectionName"], sent["digest"]
        aliases = {alias["alias"] for alias in sent["aliases"]}
        same = [artifact for artifact in self.named(name) if artifact.digest == digest]
        if same and sent["enableDigestDeduplication"]:
            same[0].times_logged += 1
            self.aliases |= {(name, alias): same[0] for alias in aliases}
            return self._created(same[0], "COMMITTED")
        artifact = RemoteArtifact(
            id=f"artifact{len(self._by_id)}",
            name=name,
            type=sent["artifactTypeName"],
            run=sent["runName"],
            digest=digest,
            metadata=json.loads(sent["metadata"] or "{}"),
        )
        self._by_id[artifact.id], self._wanted[artifact.id] = artifact, aliases
        return self._created(artifact, "PENDING")

    def _created(self, artifact: RemoteArtifact, state: str) -> dict[str, Any]:
        latest = self.aliases.get((artifact.name, "latest"))
        sequence = {"latestArtifact": {"id": latest.id} if latest else None}
        return {"id": artifact.id, "state": state, "artifactSequence": sequence}

    def _manifest(self, variables: dict[str, Any], host: str) -> dict[str, Any]:
        key = variables.get("artifactManifestID") or variables["artifactID"]
        url = f"http://{host}/artifact/manifest/{key}" if variables["includeUpload"] else None
        return {"id": key, "file": {"id": key, "uploadUrl": url, "uploadHeaders": []}}

    def _file(self, sent: dict[str, Any], host: str) -> dict[str, Any]:
        digest = sent["md5"]
        url = None if digest in self.blobs else f"http://{host}/artifact/blob/{urllib.parse.quote(digest, safe='')}"
        path = f"wandb_artifact/{digest}"
        birth = {"artifact": {"id": sent["artifactID"]}}
        return {"storagePath": path, "uploadUrl": url, "uploadHeaders": [], "uploadMultipartUrls": None, **birth}

    def _commit(self, key: str) -> dict[str, Any]:
        artifact, contents = self._by_id[key], json.loads(self._manifests[key])["contents"]
        artifact.files = {path: self.blobs[entry["digest"]] for path, entry in contents.items()}
        artifact.version = len(self.named(artifact.name))
        self.complete.append(artifact)
        self.aliases |= {(artifact.name, alias): artifact for alias in self._wanted.pop(key)}
        return {"id": key, "digest": artifact.digest}

    def _use(self, artifactID: str, runName: str, **_: Any) -> dict[str, Any]:  # noqa: N803 -- W&B's names
        self._by_id[artifactID].used_by.add(runName)
        return {"id": artifactID}

    def _record(self, artifact: RemoteArtifact) -> dict[str, Any]:
        project = {"id": "1", "internalId": "1", "name": self._project, "entity": {"name": self._entity}}
        collection = {"__typename": "ArtifactSequence", "name": artifact.name, "project": project}
        names = sorted(self.aliases_of(artifact))
        alias = {"__typename": "ArtifactAlias", "artifactCollection": collection}
        sizes = [len(content) for content in artifact.files.values()]
        return {
            "__typename": "Artifact",
            "id": artifact.id,
            "artifactSequence": collection,
            "versionIndex": artifact.version,
            "artifactType": {"name": artifact.type},
            "description": None,
            "metadata": json.dumps(artifact.metadata),
            "ttlDurationSeconds": -2,
            "ttlIsInherited": True,
            "tags": [],
            "historyStep": None,
            "state": "COMMITTED" if artifact.version is not None else "PENDING",
            "size": sum(sizes),
            "digest": artifact.digest,
            "digestAlgorithm": "MANIFEST_MD5",
            "commitHash": artifact.id,
            "fileCount": len(sizes),
            "createdAt": "2026-01-01T00:00:00Z",
            "updatedAt": None,
            "aliases": [{**alias, "id": name, "alias": name} for name in names],
        }


def _md5(content: bytes) -> str:
    return base64.b64encode(hashlib.md5(content, usedforsecurity=False).digest()).decode()
