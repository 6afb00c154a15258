// Requests to the service. Errors are Problems; a lost connection is waited for; a missing API key is
// requested from the user.

import { fetched, reachable } from "./connection.js";
import { problemText, text } from "../words/text.js";
import { askForKey, credentials, key } from "./key.js";

/** Milliseconds without progress after which an upload is aborted; a slow line empties its buffers slowly. */
const UPLOAD_SILENCE = 120_000;

/** The problem type of damaged pictures, some of which can be enlarged in part. */
export const CUT_OFF = "image-cut-off";

/** An error response (RFC 9457), with the page's own text if it has one. */
export class Problem extends Error {
  constructor({ status, title = text("answered", { status }), detail, type = "" }) {
    const slug = detail?.includes("truncated=fill") ? CUT_OFF : type.split("/").pop();
    const own = problemText(slug);
    super(own ?? (detail || title));
    this.words = own ?? (detail ? `${title}: ${detail}` : title);
    this.status = status;
    this.slug = slug;
  }
}

/** Send a request; throws a Problem unless it succeeds. Not for uploads. */
export async function request(path, { signal, headers = {}, method = "GET", body, keepalive = false } = {}) {
  for (;;) {
    const used = key();
    let answer;
    let refusal;
    try {
      answer = await fetched(path, { method, signal, body, keepalive, headers: { ...headers, ...credentials() } });
      if (answer.ok) return answer;
      refusal = await answer.text();
    } catch (failure) {
      if (signal?.aborted) throw failure;
      await reachable(signal);
      continue;
    }
    const problem = problemOf(answer.status, refusal);
    if (answer.status === 401 && (await askForKey(problem.message, used))) continue;
    throw problem;
  }
}

/** The body of a response, read by `read(answer)`; if the connection is lost meanwhile, `ask()` is repeated. */
export async function received(ask, read, signal) {
  for (;;) {
    const answer = await ask();
    try {
      return await read(answer);
    } catch (failure) {
      if (signal?.aborted || !(failure instanceof TypeError)) throw failure;
      await reachable(signal);
    }
  }
}

/**
 * Upload a picture; resolves with its job. After a lost connection the upload is repeated with the same
 * idempotency key, so there is one job. `onBusy(problem)` is called if the service accepts none for
 * now, for example while it starts; the upload is repeated after its `Retry-After`.
 */
export async function upload(file, fields, { onSent, onBusy, signal }) {
  const form = new FormData();
  for (const [name, value] of Object.entries(fields)) form.append(name, value);
  form.append("image", file, file.name || "pasted.png");
  const once = word();
  for (;;) {
    const used = key();
    let answer;
    try {
      answer = await send(form, once, { onSent, signal });
    } catch (failure) {
      if (signal.aborted) throw signal.reason;
      await readable(file);
      await reachable(signal);
      continue;
    }
    if (answer.status === 202) return JSON.parse(answer.text);
    const problem = problemOf(answer.status, answer.text);
    if (answer.status === 401 && (await askForKey(problem.message, used))) continue;
    if (answer.status !== 503) throw problem;
    onBusy(problem);
    await passed(Number(answer.pause) || 5, signal);
  }
}

/** Resolves after so many seconds. */
function passed(seconds, signal) {
  return new Promise((resolve, reject) => {
    setTimeout(resolve, 1000 * seconds);
    signal.addEventListener("abort", () => reject(signal.reason), { once: true });
  });
}

/** XMLHttpRequest, because fetch does not report upload progress. */
function send(form, once, { onSent, signal }) {
  return new Promise((resolve, reject) => {
    const wire = new XMLHttpRequest();
    const stop = () => wire.abort();
    let timer = 0;
    const listen = () => {
      clearTimeout(timer);
      timer = setTimeout(stop, UPLOAD_SILENCE);
    };
    signal.addEventListener("abort", stop, { once: true });
    wire.open("POST", "upscale");
    for (const [name, value] of Object.entries(credentials())) wire.setRequestHeader(name, value);
    wire.setRequestHeader("Idempotency-Key", once);
    wire.upload.onprogress = (event) => {
      listen();
      onSent(event.total ? event.loaded / event.total : 0);
    };
    wire.onload = () => resolve({ status: wire.status, text: wire.responseText, pause: wire.getResponseHeader("Retry-After") });
    wire.onerror = wire.onabort = () => reject(new TypeError("the connection was lost"));
    wire.onloadend = () => {
      clearTimeout(timer);
      signal.removeEventListener("abort", stop);
    };
    listen();
    wire.send(form);
  });
}

/** A file that was moved or changed since it was chosen fails like a lost connection: check which it was. */
async function readable(file) {
  try {
    await file.slice(0, 1).arrayBuffer();
  } catch {
    const gone = new Problem({ title: text("fileGone") });
    gone.permanent = true;
    throw gone;
  }
}

function problemOf(status, body) {
  try {
    return new Problem({ status, ...JSON.parse(body) });
  } catch {
    return new Problem({ status });
  }
}

function word() {
  const random = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(random, (byte) => byte.toString(16).padStart(2, "0")).join("");
}
