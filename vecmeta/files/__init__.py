"""Readers: files in, items out, one at a time, so that memory stays constant however large the file.

`read` takes JSON lines, CSV or TSV (each also gzipped), Parquet, a folder of pictures, or "-" for JSON lines on standard
input; which of them follows from the name. Columns become an item like this:

- **id**        the column "id". Without one: an error, or with ``auto_id`` the ids ``FILE:1``, ``FILE:2`` … by row, so that
                reading the same file again replaces the same items.
- **content**   for texts the first of content, text, body, title. For pictures the first of image, jpeg, jpg, png, picture,
                bytes, content: bytes, ``{"bytes": …}`` as Hugging Face writes them, or the path of a file, relative to the
                file that names it.
- **vector**    for own vectors the first of vector, embedding: a list of numbers (in CSV as JSON).
- **metadata**  all the other columns, or those that are named; an object in a column "metadata" is merged in and wins. CSV
                has no types: a cell that is a JSON number, true or false is read as that, an empty one is left out. Missing
                values of Parquet are left out, dates become ISO 8601.

`read_judgements` reads feedback from the same formats: the item, what it is judged by (concept, query, or like: another item), score,
user. Every error names the file and the line (in Parquet the row).
"""

from vecmeta.files.items import Columns, Kind, OwnVector, read, read_judgements

__all__ = ["Columns", "Kind", "OwnVector", "read", "read_judgements"]
