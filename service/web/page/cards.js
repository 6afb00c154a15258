// One card a picture: what it is, what it will become, how far it is, and what can be done with it.

import { bytes, duration, size, state } from "./words.js";

const list = document.getElementById("cards");
const section = document.getElementById("pictures");
const main = document.querySelector("main");
const template = document.getElementById("card");

/** Put a card at the front; `act.open`, `act.stop` (cancel or remove) and `act.again` get the picture. */
export function addCard(picture, act, { last = false } = {}) {
  const card = template.content.firstElementChild.cloneNode(true);
  picture.card = card;
  card.querySelector(".open").addEventListener("click", () => act.open(picture));
  card.querySelector(".drop-it").addEventListener("click", () => act.stop(picture));
  card.querySelector(".again").addEventListener("click", () => act.again(picture));
  if (last) list.append(card);
  else list.prepend(card);
  if (!last) list.scrollTo(0, 0);
  showSection();
  updateCard(picture);
}

export function removeCard(picture) {
  const next = picture.card.nextElementSibling ?? picture.card.previousElementSibling;
  const held = picture.card.contains(document.activeElement);
  picture.card.remove();
  showSection();
  if (held) (next?.querySelector(".open") ?? document.getElementById("files")).focus();
}

function showSection() {
  section.hidden = !list.childElementCount;
  main.classList.toggle("busy", !section.hidden);
}

/** Show the thumbnail, a bitmap. */
export function setThumbnail(picture, bitmap) {
  const sheet = document.createElement("canvas");
  sheet.width = bitmap.width;
  sheet.height = bitmap.height;
  sheet.getContext("2d").drawImage(bitmap, 0, 0);
  sheet.setAttribute("aria-hidden", "true");
  picture.card.querySelector(".thumb").replaceChildren(sheet);
}

export function updateCard(picture) {
  const { card, phase, view, problem, name } = picture;
  const part = (selector) => card.querySelector(selector);
  card.dataset.state = phase === "known" ? (view?.state ?? "unknown") : phase;
  part(".name").textContent = name;
  part(".sizes").textContent = sizes(picture);
  part(".state").textContent = state(picture);
  const ready = phase === "known" && view?.state === "succeeded";
  if (ready && took(view) >= 0.01) part(".state").textContent += `, ${duration(took(view))}`; // else known from before

  const progress = part("progress");
  progress.hidden = !busy(picture);
  progress.setAttribute("aria-label", `Progress of ${name}`);
  const done = doneOf(picture);
  if (done === null) progress.removeAttribute("value");
  else progress.value = done;

  const refusal = problem ?? (phase === "known" ? view?.failure : null);
  part(".reason").hidden = !refusal?.detail;
  part(".reason").textContent = refusal?.detail ?? "";
  part(".again").hidden = !picture.file || busy(picture) || ready;
  part(".again").setAttribute("aria-label", `Try ${name} again`);
  part(".drop-it").textContent = busy(picture) ? "Cancel" : "Remove";
  part(".drop-it").setAttribute("aria-label", `${busy(picture) ? "Cancel" : "Remove"} ${name}`);
}

export function markOpen(picture) {
  for (const card of list.children) {
    card.querySelector(".open").setAttribute("aria-pressed", String(card === picture?.card));
  }
}

/** Whether something is still under way. */
export function busy({ phase, view }) {
  return phase === "waiting" || phase === "sending" || (phase === "known" && (!view || ["queued", "running"].includes(view.state)));
}

/** How much is done, 0 to 1; null while that is not known. */
function doneOf({ phase, sent, view }) {
  if (phase === "sending") return sent < 1 ? sent : null;
  if (view?.state === "running" && view.progress.tiles) return view.progress.tiles_done / view.progress.tiles;
  return null;
}

function took(view) {
  return (new Date(view.finished_at) - new Date(view.created_at)) / 1000;
}

function sizes({ width, height, view, file }) {
  let image = width ? { width, height } : view?.image;
  if (!image) return file ? bytes(file.size) : "";
  const result = view?.result ?? { width: 4 * image.width, height: 4 * image.height };
  const turned = (image.width < image.height) !== (result.width < result.height);
  if (turned) image = { width: image.height, height: image.width };
  return `${size(image)} → ${size(result)}`;
}
