"""Moving collections from one database to another: a folder of Parquet and safetensors between them.

    folder/
      manifest.json               format, collections, and of each file its bytes and SHA-256; written last
      docs/                       a folder for each collection
        items-00000.parquet       id, vector (dim float32), metadata (JSON), digest, text, blob; in parts of a million items
        queries.parquet  judgements.parquet  versions.parquet  activations.parquet  policies.parquet  outcomes.parquet  clicks.parquet
        heads/v1.safetensors      the head of each version
        encoders/FOLDER/…         each encoder that was fine-tuned, with encoders.parquet  version_encoders.parquet  query_encodings.parquet
        encodings.parquet         and the vectors that they made of the items: encoder, id, vector

Both ways are streams: memory does not grow with the collection. An export is one snapshot of each collection, and is there once it is
whole; an import is checked against the checksums first, and is there once it is whole. API keys, jobs and splits stay where they are.
"""

from vecmeta.moving.loading import load
from vecmeta.moving.saving import save

__all__ = ["load", "save"]
