// The ten best items of one user: the state and the history go into the graph of this page, and nowhere else.

const about = JSON.parse(document.getElementById("about").textContent);
const numberOf = new Map(about.items.map(([id], number) => [id, number]));

function contentOf(id) {
  const text = atob(document.getElementById(id).textContent);
  return Uint8Array.from(text, (letter) => letter.charCodeAt(0));
}

async function open() {
  const runtime = new Blob([contentOf("runtime")], { type: "text/javascript" });
  const ort = await import(URL.createObjectURL(runtime));
  ort.env.wasm.numThreads = 1;
  ort.env.wasm.wasmBinary = contentOf("wasm").buffer;
  return { ort, session: await ort.InferenceSession.create(contentOf("model"), { executionProviders: ["wasm"] }) };
}

// Arrays of float32 by name, of an archive that NumPy wrote without compression. Its directory stands at the end.
function readNpz(buffer) {
  const view = new DataView(buffer), arrays = new Map();
  let end = buffer.byteLength - 22;
  while (end >= 0 && view.getUint32(end, true) !== 0x06054b50) end -= 1;
  if (end < 0) throw new Error("state: expected an archive of NumPy or safetensors, found something else");
  let entry = view.getUint32(end + 16, true);
  for (let left = view.getUint16(end + 10, true); left > 0; left -= 1) {
    const [name, extra, comment] = [28, 30, 32].map((place) => view.getUint16(entry + place, true));
    const title = new TextDecoder().decode(new Uint8Array(buffer, entry + 46, name)).replace(/\.npy$/, "");
    if (view.getUint16(entry + 10, true) !== 0) throw new Error(`state: ${title}: expected no compression, found some`);
    const local = view.getUint32(entry + 42, true);
    const begin = local + 30 + view.getUint16(local + 26, true) + view.getUint16(local + 28, true);
    const wide = view.getUint8(begin + 6) > 1;
    const length = wide ? view.getUint32(begin + 8, true) : view.getUint16(begin + 8, true);
    const head = begin + (wide ? 12 : 10);
    const text = new TextDecoder().decode(new Uint8Array(buffer, head, length));
    const shape = text.match(/'shape': \(([^)]*)\)/)[1].split(",").filter((x) => x.trim()).map(Number);
    if (/'fortran_order': True/.test(text)) throw new Error(`state: ${title}: expected rows one after the other, found columns`);
    if (/'descr': '<f4'/.test(text)) arrays.set(title, floats(buffer, head + length, shape));
    entry += 46 + name + extra + comment;
  }
  return arrays;
}

function readSafetensors(buffer) {
  const length = Number(new DataView(buffer).getBigUint64(0, true));
  const entries = Object.entries(JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 8, length))));
  const named = entries.filter(([, entry]) => entry.dtype === "F32");
  return new Map(named.map(([name, x]) => [name, floats(buffer, 8 + length + x.data_offsets[0], x.shape)]));
}

function floats(buffer, begin, shape) {
  const size = shape.reduce((a, b) => a * b, 1);
  return { shape, data: new Float32Array(buffer.slice(begin, begin + 4 * size)) };
}

async function readState(file) {
  if (!file) throw new Error("state: expected a file, found none");
  const buffer = await file.arrayBuffer();
  const arrays = file.name.endsWith(".safetensors") ? readSafetensors(buffer) : readNpz(buffer);
  return Object.entries(about.state).map(([name, shape]) => {
    const found = arrays.get(name) ?? arrays.get(name.replace("params/", ""));
    if (`${found?.shape}` !== `${shape}` || !found) {
      throw new Error(`state: ${name}: expected float32 [${shape}], found ${found ? `[${found.shape}]` : "no such array"}`);
    }
    return [name, found];
  });
}

function readHistory(text) {
  const ids = [...new Set(text.split(/[\n,]/).map((id) => id.trim()).filter((id) => id))];
  const strange = ids.filter((id) => !numberOf.has(id));
  if (strange.length) throw new Error(`history: expected ids of ${about.dataset}, found ${strange[0]}`);
  if (ids.length > about.width) throw new Error(`history: expected at most ${about.width} items, found ${ids.length}`);
  return ids.map((id) => numberOf.get(id)).sort((a, b) => a - b);
}

async function rank(opened, file, text) {
  const history = readHistory(text), padded = new Int32Array(about.width).fill(about.items.length);
  padded.set(history);
  const state = await readState(file);
  const { ort, session } = await opened;
  const feeds = Object.fromEntries(state.map(([name, x]) => [name, new ort.Tensor("float32", x.data, x.shape)]));
  if (session.inputNames.includes("history")) feeds.history = new ort.Tensor("int32", padded, [about.width]);
  const scores = (await session.run(feeds)).scores.data;
  if (!scores.every(Number.isFinite)) throw new Error("state: expected finite scores, found others");
  const known = new Set(history);
  const free = [...scores.keys()].filter((number) => !known.has(number));
  return free.sort((a, b) => scores[b] - scores[a] || a - b).slice(0, 10); // of equal ones the lower number first
}

const opened = open();
const [state, history, button, said, best] = ["state", "history", "rank", "said", "best"].map((id) => document.getElementById(id));
button.addEventListener("click", async () => {
  button.disabled = true;
  said.textContent = "…";
  best.replaceChildren();
  try {
    const items = await rank(opened, state.files[0], history.value);
    best.replaceChildren(...items.map((number) => {
      const line = document.createElement("li");
      const [id, title] = about.items[number];
      line.textContent = title ? `${title} (${id})` : id;
      line.dataset.item = id;
      return line;
    }));
    said.textContent = `${items.length} items`;
  } catch (error) {
    said.textContent = error.message;
  } finally {
    button.disabled = false;
  }
});
opened.then(() => { said.textContent = "ready"; }, (error) => { said.textContent = `the page could not start: ${error.message}`; });
