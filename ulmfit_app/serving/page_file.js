// A file: it is sent, its rows are counted as they come back, and the result can be kept.
import { Problem, Tasks, ask, count, find, items, reach, size, word } from "./page_parts.js";

/**
 * The part of the page about a file.
 * @param {() => object | null} about what the server says of itself, once it has
 */
export function file(about) {
  const tasks = new Tasks(find("of-file"));

  async function predict(task) {
    const file = find("file").files[0];
    if (!file) throw new Problem("There is no file yet: choose a CSV, or drop one on this page.");
    const most = about()?.limits.file_bytes ?? Infinity;
    if (file.size > most) {
      const found = `The file has ${size(file.size)}, and the server reads up to ${size(most)}`;
      throw new Problem(`${found}. Split it, or predict it with: python -m ulmfit_app predict`);
    }
    begin();
    const response = await send(file, task);
    const rows = Number(response.headers.get("X-Rows"));
    offer(await receive(response.body, rows), file.name, rows);
    find("file-notes").replaceChildren(...items(JSON.parse(response.headers.get("X-Notes") ?? "[]")));
    task.say(`Done: ${count(rows)} rows.`);
  }

  find("file-form").addEventListener("submit", async (event) => {
    event.preventDefault();
    if (await tasks.run(predict)) end();
  });
  find("cancel").addEventListener("click", () => {
    tasks.stop("Cancelled.");
    end();
  });
  for (const type of ["dragover", "dragleave", "drop"]) addEventListener(type, take);
}

/** A file may be dropped anywhere: beside a small box, the browser would leave the page for it. */
function take(event) {
  if (!event.dataTransfer.types.includes("Files")) return; // text goes where it is dropped
  event.preventDefault();
  find("drop").classList.toggle("over", event.type === "dragover");
  if (event.type !== "drop") return;
  find("file").files = event.dataTransfer.files;
  find("file-form").scrollIntoView({ block: "nearest" });
  find("predict-file").focus();
}

function begin() {
  URL.revokeObjectURL(find("download").href);
  find("result").hidden = true;
  find("progress").hidden = false;
  find("bar").removeAttribute("value"); // until the first rows are back
  find("done").textContent = "Sending the file …";
}

function end() {
  const focused = document.activeElement === find("cancel");
  find("progress").hidden = true;
  // Who works by keyboard goes on from there.
  if (focused) find(find("result").hidden ? "predict-file" : "download").focus();
}

function send(file, task) {
  const options = { text: find("column").value, encoding: find("encoding").value };
  const given = Object.entries(options).filter(([, value]) => value.trim());
  const headers = { "Content-Type": "text/csv" };
  return ask(`v1/file?${new URLSearchParams(given)}`, task, { method: "POST", headers, body: file });
}

/** The pieces of the answer. Rows are counted by the ends of lines outside quotes. */
async function receive(stream, rows) {
  const reader = stream.getReader();
  const pieces = [];
  let done = -1; // the line with the names of the columns is no row
  let quoted = false;
  for (;;) {
    show(Math.max(done, 0), rows);
    const piece = await reach(
      reader.read(), `The answer broke off after ${count(Math.max(done, 0))} rows. Try again.`);
    if (piece.done) return pieces;
    pieces.push(piece.value);
    for (const byte of piece.value) {
      if (byte === 0x22) quoted = !quoted;
      else if (byte === 0x0a && !quoted) done += 1;
    }
  }
}

/** Every row is seen; only quarters are said, or a screen reader would never be silent. */
function show(done, rows) {
  const bar = find("bar");
  const quarter = (value) => Math.floor((4 * value) / rows);
  if (done < rows && quarter(done) > quarter(bar.value)) {
    find("heard").textContent = `${25 * quarter(done)}% of the rows are done.`;
  }
  bar.max = rows;
  bar.value = done;
  find("done").textContent = `${count(done)} of ${count(rows)} rows`;
}

function offer(pieces, name, rows) {
  const result = new Blob(pieces, { type: "text/csv" });
  const download = `${name.replace(/\.\w+$/, "")}-predicted.csv`;
  Object.assign(find("download"), { href: URL.createObjectURL(result), download });
  find("download").replaceChildren("Download ", word(download));
  find("size").textContent = `${count(rows)} rows, ${size(result.size)}`;
  find("result").hidden = false;
}
