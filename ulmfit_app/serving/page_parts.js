// What all parts of the page share: elements, numbers as words, and talking to the server. What
// users, files and the server say enters the page as text alone, never as markup.
const LONGEST_WAIT = 60; // seconds that the page waits by itself for a busy server

export const find = (id) => document.getElementById(id);

/** An element with children, of which strings become text. */
export function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

/** A foreign word in a sentence, whether it is written from left to right or from right to left. */
export const word = (text) => make("bdi", {}, text);

/** Sentences as the items of a list. */
export const items = (notes) => notes.map((note) => make("li", { dir: "auto" }, note));

export const count = (n) => n.toLocaleString("en");
export const size = (bytes) =>
  bytes < 1e6 ? `${count(Math.ceil(bytes / 1e3))} kB` : `${(bytes / 1e6).toFixed(1)} MB`;

/** One decimal; what is not quite certain is not shown as if it were. */
export function percent(share) {
  if (share >= 0.9995 && share < 1) return "over 99.9%";
  return share > 0 && share < 0.0005 ? "under 0.1%" : `${(100 * share).toFixed(1)}%`;
}

/** A sentence for the reader. */
export class Problem extends Error {}

/** What the network gives; where it breaks off, which is a TypeError, a Problem. */
export async function reach(promise, sentence) {
  try {
    return await promise;
  } catch (error) {
    throw error instanceof TypeError ? new Problem(sentence) : error;
  }
}

/** What one part of the page does, one task at a time: a new one stops the old one. */
export class Tasks {
  constructor(part) {
    this.status = part.querySelector(".status");
    this.problem = part.querySelector(".problem");
  }

  stop(sentence = "") {
    this.controller?.abort();
    this.status.textContent = sentence;
    this.problem.textContent = "";
  }

  /** Whether the work came to its end, well or not, and was not stopped. */
  async run(work) {
    this.stop();
    const { signal } = (this.controller = new AbortController());
    const say = (sentence) => {
      if (!signal.aborted) this.status.textContent = sentence;
    };
    try {
      await work({ signal, say });
    } catch (error) {
      if (signal.aborted) return false;
      say("");
      if (!(error instanceof Problem)) throw error;
      this.problem.textContent = error.message;
    }
    return !signal.aborted;
  }
}

function wait(seconds, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, 1000 * seconds);
    signal.addEventListener("abort", () => {
      clearTimeout(timer);
      reject(signal.reason);
    });
  });
}

/** The server's answer, or a Problem. A busy server is asked once more, when it says. */
export async function ask(path, task, request = {}) {
  const unreachable = request.body instanceof File
    ? "The server cannot be reached, or the file has changed: choose it again."
    : "The server cannot be reached. Is it still running? Then try again.";
  for (let again = false; ; again = true) {
    const response = await reach(fetch(path, { ...request, signal: task.signal }), unreachable);
    if (response.ok) return response;
    const body = await response.json().catch(() => null); // a proxy's page is no JSON
    const sentence = body?.error ?? `The server answered ${response.status}, without a reason.`;
    const seconds = Number(response.headers.get("Retry-After"));
    if (response.status !== 503 || !(seconds > 0)) throw new Problem(sentence);
    if (again || seconds > LONGEST_WAIT) {
      throw new Problem(`${sentence} Try again in ${seconds} seconds.`);
    }
    task.say(`${sentence} Trying again in ${seconds} seconds.`);
    await wait(seconds, task.signal);
  }
}

/** The JSON that the server answers to some JSON. */
export async function askJson(path, task, body) {
  const headers = { "Content-Type": "application/json" };
  const response = await ask(path, task, { method: "POST", headers, body: JSON.stringify(body) });
  return response.json();
}
