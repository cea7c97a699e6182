// Files that somebody drops, as items: lines of JSON, JSON, CSV, and pictures.

/** Items from files: {id, text | image | vector, metadata}. Throws an Error that names the file and what is wrong with it. */
export async function itemsOf(files, modality) {
  const found = [];
  for (const file of files) {
    if (file.type.startsWith("image/") || modality === "image" && /\.(png|jpe?g|gif|webp|bmp)$/i.test(file.name)) found.push({ id: file.name, image: await base64(file), metadata: {} });
    else found.push(...parsed(file.name, await file.text()));
  }
  return found;
}

function parsed(name, text) {
  try {
    if (/\.csv$/i.test(name)) return fromCsv(text);
    if (/\.json$/i.test(name)) { const all = JSON.parse(text); return (Array.isArray(all) ? all : all.items).map(item); }
    if (/\.(jsonl|ndjson)$/i.test(name)) return text.split("\n").filter((line) => line.trim()).map((line) => item(JSON.parse(line)));
  } catch (error) {
    throw new Error(`${name} cannot be read: ${error.message}`);
  }
  if (/\.txt$/i.test(name)) return text.split("\n").filter((line) => line.trim()).map((line, place) => ({ id: `${name}:${place + 1}`, text: line, metadata: {} }));
  throw new Error(`${name}: files of items are .jsonl, .json, .csv, .txt (an item a line) or pictures`);
}

/** A row of whatever form: `content` is as good as `text`; what is no content and no id is metadata. */
function item(row, place) {
  const { id = `row ${place + 1}`, text, content, image, vector, metadata, ...rest } = row;
  const held = image !== undefined ? { image } : vector !== undefined ? { vector } : { text: text ?? content };
  return { id: String(id), ...held, metadata: metadata ?? rest };
}

function fromCsv(text) {
  const [head, ...rows] = csv(text);
  if (!head?.some((name) => name === "text" || name === "content")) throw new Error("the first line names the columns, one of them “text” or “content”");
  return rows.map((cells, place) => item(Object.fromEntries(head.map((name, column) => [name, name === "text" || name === "content" || name === "id" ? cells[column] : value(cells[column] ?? "")])), place));
}

const value = (cell) => (cell !== "" && !Number.isNaN(Number(cell)) ? Number(cell) : cell);

/** Rows of cells (RFC 4180). */
export function csv(text) {
  const rows = [];
  let [row, cell, quoted] = [[], "", false];
  for (let n = 0; n < text.length; n += 1) {
    const c = text[n];
    if (quoted) {
      if (c === '"' && text[n + 1] === '"') { cell += '"'; n += 1; } else if (c === '"') quoted = false;
      else cell += c;
    } else if (c === '"' && cell === "") quoted = true;
    else if (c === ",") { row.push(cell); cell = ""; }
    else if (c === "\n" || c === "\r") {
      if (c === "\r" && text[n + 1] === "\n") n += 1;
      row.push(cell);
      if (row.length > 1 || row[0] !== "") rows.push(row);
      [row, cell] = [[], ""];
    } else cell += c;
  }
  row.push(cell);
  if (row.length > 1 || row[0] !== "") rows.push(row);
  return rows;
}

async function base64(file) {
  const data = new Uint8Array(await file.arrayBuffer());
  let binary = "";
  for (let place = 0; place < data.length; place += 8192) binary += String.fromCharCode(...data.subarray(place, place + 8192));
  return btoa(binary);
}
