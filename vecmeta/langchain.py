"""A collection as a LangChain vector store, whose retriever can be taught. Needs `pip install 'vecmeta[langchain]'`."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any, Literal, Protocol, Self, TypeAlias, TypedDict, Unpack

import numpy as np
from numpy.typing import ArrayLike

import vecmeta as vm
from vecmeta import intake
from vecmeta.types import Content, Metadata, Query, Vector, Vectors, Where

try:
    from langchain_core.documents import Document
    from langchain_core.embeddings import Embeddings
    from langchain_core.vectorstores import VectorStore
    from langchain_core.vectorstores.utils import maximal_marginal_relevance
except ImportError as error:
    raise ImportError("vecmeta.langchain needs langchain-core: pip install 'vecmeta[langchain]'", name=error.name) from error

Bends: TypeAlias = Iterable[tuple[str, float]]  # (id, score from -1 to 1)
PAGE = 1000  # items at a time when all are deleted


class _Collection(Protocol):
    """What the store asks of a collection, embedded or remote; each verb as in `vecmeta.Collection`."""

    @property
    def name(self) -> str: ...
    @property
    def modality(self) -> Literal["text", "image", "vector"] | None: ...
    def add(self, items: Iterable[vm.Item]) -> int: ...
    def add_vectors(self, ids: Sequence[str], vectors: ArrayLike, metadata: Sequence[Metadata] | None = None) -> int: ...
    def get(self, ids: Sequence[str]) -> list[vm.Item]: ...
    def delete(self, ids: Sequence[str]) -> int: ...
    def items(self, where: Where | None = None, after: str | None = None, limit: int = 100) -> list[vm.Item]: ...
    def search(
        self, query: Query, k: int = 10, *, where: Where | None = None, version: int | None = None, feedback: Bends | None = None
    ) -> vm.Hits: ...
    def embed(self, contents: Sequence[Query], version: int | None = None) -> Vectors: ...
    def feedback(self, judgements: Iterable[vm.Judgement]) -> vm.Understood: ...
    def adapt(self, method: str = "maml", *, dry_run: bool = False) -> vm.Report: ...


class Options(TypedDict, total=False):
    """What every search takes besides its query and k."""

    filter: Where | None
    version: int | None
    feedback: Bends | None


class VecmetaVectorStore(VectorStore):
    """Documents in a collection of vecmeta.

    Without `embedding` the collection encodes the texts by itself (``db.create("docs", encoder="text")``). With one the collection
    holds its vectors (``db.create("docs", encoder="vectors", dim=…)``), and the text of a document stands in the item's metadata
    under `content_key`. Either way a document's own metadata are the item's, so that ``filter`` is vecmeta's `where` on them.

    All searches take ``filter``, ``version`` (None: the live one, 0: as it was before any teaching) and ``feedback``
    (``[("id", 1.0), ("id2", -1.0)]`` bends this one query); a retriever passes them on from its ``search_kwargs``.
    Async methods run the others in a thread. A context manager, which closes the database if `from_texts` opened it.
    """

    def __init__(
        self, collection: _Collection, embedding: Embeddings | None = None, *, content_key: str = "page_content"
    ) -> None:
        """A store over a collection.

        Raises:
            InvalidConfig: the collection takes something else than texts (or, with an embedding, than own vectors).
        """
        needed = "text" if embedding is None else "vector"
        if collection.modality != needed:
            right = "a text encoder, such as 'text'" if embedding is None else "encoder='vectors', or no embedding"
            given = "without an embedding" if embedding is None else f"with the embedding {type(embedding).__name__}"
            raise vm.InvalidConfig(
                f"a store {given} needs a collection with {right}; {collection.name!r} takes {collection.modality or 'unknown'} contents"
            )
        self.collection = collection
        self._embedding, self._content_key = embedding, content_key
        self._database: vm.Database | None = None

    @classmethod
    def from_texts(  # type: ignore[override]  # LangChain's **kwargs would swallow typos, here and below
        cls,
        texts: Iterable[str],
        embedding: Embeddings | None = None,
        metadatas: Sequence[Mapping[str, Any]] | None = None,
        *,
        ids: Sequence[str | None] | None = None,
        collection: _Collection | None = None,
        path: str | os.PathLike[str] | None = None,
        collection_name: str = "langchain",
        content_key: str = "page_content",
    ) -> Self:
        """A store with these texts in it.

        Args:
            texts, metadatas, ids: as in `add_texts`.
            embedding: None: the collection encodes by itself.
            collection: where they go; or else
            path: the folder of a database, made if it is not there and opened until `close`.
            collection_name: the collection in it, made if it is not there.
            content_key: of the store.

        Raises:
            InvalidConfig: neither or both of collection and path. Also what `add_texts` raises; then no new collection is left behind.
        """
        opened: vm.Database | None = None
        with ExitStack() as undo:
            if collection is None and path is not None:
                opened = vm.open(path)
                undo.callback(opened.close)
                try:
                    collection = opened.collection(collection_name)
                except vm.CollectionNotFound:
                    dim = None if embedding is None else len(embedding.embed_query("how long is a vector?"))
                    collection = opened.create(collection_name, "text" if embedding is None else "vectors", dim=dim)
                    undo.callback(opened.drop, collection_name)
            elif collection is None or path is not None:
                raise vm.InvalidConfig("give either collection=, or path= and collection_name=")
            store = cls(collection, embedding, content_key=content_key)
            store.add_texts(texts, metadatas, ids=ids)
            undo.pop_all()
        store._database = opened
        return store

    @classmethod
    def from_documents(cls, documents: list[Document], embedding: Embeddings | None = None, **kwargs: Any) -> Self:
        """A store with these documents in it; keyword arguments as in `from_texts`."""
        return super().from_documents(documents, embedding, **kwargs)  # type: ignore[arg-type]  # it hands it to from_texts

    @property
    def embeddings(self) -> Embeddings | None:
        """LangChain's embedding; None when the collection encodes by itself."""
        return self._embedding

    def close(self) -> None:
        """Close the database if `from_texts` opened it; a collection that was given stays open. Idempotent."""
        if self._database is not None:
            self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- documents -----------------------------------------------------------------------------------------------------------

    def add_texts(  # type: ignore[override]
        self,
        texts: Iterable[str],
        metadatas: Sequence[Mapping[str, Any]] | None = None,
        *,
        ids: Sequence[str | None] | None = None,
        batch_size: int | None = None,
    ) -> list[str]:
        """Insert or replace texts by id, all or none; returns their ids.

        Args:
            texts: n texts.
            metadatas: n JSON objects.
            ids: n different ids; for None a new one is made (UUID 4).
            batch_size: texts that LangChain's embedding is given at a time; the collection's own encoder decides by itself.

        Raises:
            InvalidItem, InvalidVector, UndecodableContent: names the first document that cannot be taken; nothing is written.
        """
        contents = _texts(texts)
        metadata = [{}] * len(contents) if metadatas is None else list(metadatas)
        given = [None] * len(contents) if ids is None else ids
        names = intake.distinct([str(uuid.uuid4()) if id is None else id for id in given])
        if not len(metadata) == len(names) == len(contents):
            raise vm.InvalidItem(
                f"{len(contents)} texts need as many metadata objects and ids, not {len(metadata)} and {len(names)}"
            )
        try:
            if self._embedding is None:
                self.collection.add([vm.Item(*item) for item in zip(names, contents, metadata, strict=True)])
            elif contents:
                kept = [self._kept(*item) for item in zip(names, contents, metadata, strict=True)]
                self.collection.add_vectors(names, _vectors(self._embedding, contents, batch_size), kept)
        except (vm.InvalidInput, vm.UndecodableContent) as error:
            # Who gave no id cannot know the one in the message.
            for place, id in enumerate(names):
                if f"item {id!r}" in str(error):
                    error.add_note(f"item {id!r} is document {place} of the batch: {contents[place][:60]!r}")
            raise
        return names

    def add_documents(  # type: ignore[override]
        self, documents: Sequence[Document], *, ids: Sequence[str | None] | None = None, batch_size: int | None = None
    ) -> list[str]:
        """`add_texts` of documents; without `ids` their own ids count."""
        names = [document.id for document in documents] if ids is None else ids
        texts, metadatas = [d.page_content for d in documents], [d.metadata for d in documents]
        return self.add_texts(texts, metadatas, ids=names, batch_size=batch_size)

    def get_by_ids(self, ids: Sequence[str], /) -> list[Document]:
        """The documents of these ids, in their order; missing ones are left out."""
        return [self._document(item.id, item.content, item.metadata) for item in self._there(intake.listed(ids))]

    def delete(self, ids: Sequence[str] | None = None) -> bool:  # type: ignore[override]
        """Delete documents; None: all of them. True: none of them is there now, whether or not it was."""
        if ids is not None:
            self.collection.delete(ids)
            return True
        while page := self.collection.items(limit=PAGE):
            self.collection.delete([item.id for item in page])
        return True

    # -- searches ------------------------------------------------------------------------------------------------------------

    def similarity_search(self, query: str, k: int = 4, **options: Unpack[Options]) -> list[Document]:  # type: ignore[override]
        """The k nearest documents, best first. Raises what `vecmeta.Collection.search` does."""
        return self._documents(self._hits(self._query(query), k, **options))

    def similarity_search_with_score(self, query: str, k: int = 4, **options: Unpack[Options]) -> list[tuple[Document, float]]:
        """The k nearest documents with their cosines, in [-1, 1], larger is nearer."""
        hits = self._hits(self._query(query), k, **options)
        return [(document, hit.score) for document, hit in zip(self._documents(hits), hits, strict=True)]

    def similarity_search_by_vector(self, embedding: Sequence[float], k: int = 4, **options: Unpack[Options]) -> list[Document]:  # type: ignore[override]
        """The k documents nearest to a vector of the encoder, which is projected as the documents are."""
        return self._documents(self._hits(embedding, k, **options))

    def max_marginal_relevance_search(  # type: ignore[override]
        self, query: str, k: int = 4, fetch_k: int = 20, lambda_mult: float = 0.5, **options: Unpack[Options]
    ) -> list[Document]:
        """k of the `fetch_k` nearest documents, near to the query and unlike each other (Carbonell and Goldstein 1998).

        `lambda_mult` in [0, 1] weighs nearness: 1 is nearness alone.
        """
        return self._diverse(self._query(query), k, fetch_k, lambda_mult, **options)

    def max_marginal_relevance_search_by_vector(  # type: ignore[override]
        self, embedding: list[float], k: int = 4, fetch_k: int = 20, lambda_mult: float = 0.5, **options: Unpack[Options]
    ) -> list[Document]:
        """`max_marginal_relevance_search` for a vector of the encoder."""
        return self._diverse(embedding, k, fetch_k, lambda_mult, **options)

    def _select_relevance_score_fn(self) -> Callable[[float], float]:
        return lambda cosine: min(1.0, max(0.0, (1 + cosine) / 2))  # rounding may have left it a little outside [-1, 1]

    # -- teaching ------------------------------------------------------------------------------------------------------------

    def teach(self, concepts: Mapping[str, Sequence[str]], *, user: str | None = None) -> vm.Understood:
        """Store that documents belong together: ``store.teach({"refunds": ["a", "b"]})``; `adapt` learns from it.

        Raises:
            InvalidJudgement, ItemNotFound: names what cannot be taken; nothing is stored.
        """
        listed = {concept: intake.listed(ids) for concept, ids in concepts.items()}
        return self.collection.feedback([vm.Judgement(id, concept, user=user) for concept, ids in listed.items() for id in ids])

    def thumbs(self, query: str, up: Sequence[str] = (), down: Sequence[str] = (), *, user: str | None = None) -> vm.Understood:
        """Store which documents are (not) relevant to a query; `adapt` learns from it. Raises InvalidJudgement, ItemNotFound."""
        liked, disliked = intake.listed(up), intake.listed(down)
        for id in set(liked) & set(disliked):
            raise vm.InvalidJudgement(f"document {id!r} has its thumb up and down for the query {query!r}")
        asked = self._query(query)
        scores = [(id, 1.0) for id in liked] + [(id, -1.0) for id in disliked]
        return self.collection.feedback([vm.Judgement(id, query=asked, score=score, user=user) for id, score in scores])

    def adapt(self, **kwargs: Any) -> vm.Report:
        """Learn from all judgements; every retriever of the store follows if the report says "promoted". See `vecmeta.Collection`."""
        return self.collection.adapt(**kwargs)

    # ------------------------------------------------------------------------------------------------------------------------

    def _query(self, text: str) -> str | Vector:
        if not isinstance(text, str):
            raise vm.InvalidInput(f"a query is a text, not a {type(text).__name__}; similarity_search_by_vector takes vectors")
        return text if self._embedding is None else np.asarray(self._embedding.embed_query(text), np.float32)

    def _kept(self, id: str, text: str, metadata: Mapping[str, Any]) -> dict[str, Any]:
        if isinstance(metadata, Mapping) and self._content_key in metadata:
            raise vm.InvalidItem(
                f"item {id!r}: metadata has the key {self._content_key!r}, under which this store keeps the text: "
                "rename it, or give the store another content_key"
            )
        intake.metadata_json(metadata, id)  # before the embedding is paid for
        return {**metadata, self._content_key: text}

    def _document(self, id: str, content: Content | None, metadata: Mapping[str, Any]) -> Document:
        own = dict(metadata)
        text = content if self._embedding is None else own.pop(self._content_key, None)
        if not isinstance(text, str):
            raise vm.InvalidItem(
                f"item {id!r} of collection {self.collection.name!r} has no text under {self._content_key!r} in its metadata: "
                "add it through this store, or name the key as content_key"
            )
        return Document(id=id, page_content=text, metadata=own)

    def _documents(self, hits: vm.Hits) -> list[Document]:
        return [self._document(hit.id, hit.content, hit.metadata) for hit in hits]

    def _there(self, ids: list[str]) -> list[vm.Item]:
        """The items that are there: a collection refuses a batch with a missing one, so halves of it are asked for."""
        try:
            return self.collection.get(ids)
        except vm.ItemNotFound:
            half = len(ids) // 2
            return self._there(ids[:half]) + self._there(ids[half:]) if half else []

    def _hits(
        self, query: Query, k: int, *, filter: Where | None = None, version: int | None = None, feedback: Bends | None = None
    ) -> vm.Hits:
        return self.collection.search(query, k, where=filter, version=version, feedback=feedback)

    def _diverse(self, query: Query, k: int, fetch_k: int, lambda_mult: float, **options: Unpack[Options]) -> list[Document]:
        if not 0 <= lambda_mult <= 1:
            raise vm.InvalidConfig(f"lambda_mult is a number from 0 to 1, not {lambda_mult!r}")
        fetched = max(intake.top(k), intake.top(fetch_k, "fetch_k"))
        hits = self._hits(query, fetched, **options)
        if not hits:
            return []
        rows = self.collection.embed([vm.Id(hit.id) for hit in hits], version=hits.version).astype(np.float64)  # (n, dim)
        # The scores came from a query that feedback may have bent, so it is found again from them, in the span of the rows; a further
        # dimension, where all rows are 0, takes the rest of its length, so that its cosines are the scores.
        asked = np.linalg.lstsq(rows, np.array([hit.score for hit in hits]), rcond=1e-5)[0]  # (dim,)
        asked = np.append(asked, np.sqrt(max(0.0, 1 - asked @ asked)))  # (dim + 1,)
        chosen = maximal_marginal_relevance(asked, np.pad(rows, ((0, 0), (0, 1))).tolist(), lambda_mult, k)
        documents = self._documents(hits)
        return [documents[place] for place in chosen]


def _texts(texts: Iterable[str]) -> list[str]:
    if isinstance(texts, str):
        raise vm.InvalidItem(f"texts are a list of texts, not the text {texts[:60]!r}")
    contents = list(texts)
    for place, text in enumerate(contents):
        if not isinstance(text, str):
            raise vm.InvalidItem(f"text {place} of the batch is a {type(text).__name__}, not a text")
    return contents


def _vectors(embedding: Embeddings, texts: list[str], batch_size: int | None) -> list[list[float]]:
    """n vectors of n texts."""
    step = len(texts) if batch_size is None else intake.top(batch_size, "batch_size")
    return [row for start in range(0, len(texts), step) for row in embedding.embed_documents(texts[start : start + step])]
