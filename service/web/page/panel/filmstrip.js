// The strip of all pictures: a thumbnail with a badge for each; the open one is marked.

import { busy, statusOf } from "../pictures/status.js";
import { text } from "../words/text.js";

const list = document.getElementById("cards");
const template = document.getElementById("card");

/** Add a card at the front or at the end; `act.open` and `act.remove` get the picture. */
export function addCard(picture, act, last = false) {
  const card = template.content.firstElementChild.cloneNode(true);
  picture.card = card;
  card.querySelector(".open").addEventListener("click", () => act.open(picture));
  card.querySelector(".remove").addEventListener("click", () => act.remove(picture));
  card.querySelector(".remove").setAttribute("aria-label", text("removeName", picture));
  card.querySelector(".name").textContent = picture.name;
  card.querySelector(".open").title = picture.name;
  card.querySelector(".thumb").replaceChildren(picture.canvas ?? picture.name); // the name, until there is a thumbnail
  const at = list.children[picture.place ?? 0];
  if (last || !at) list.append(card);
  else at.before(card);
  picture.place = undefined;
}

/** Remove a card; its focus moves to a neighbour. */
export function removeCard(picture) {
  const next = picture.card.nextElementSibling ?? picture.card.previousElementSibling;
  const focused = picture.card.contains(document.activeElement);
  picture.card.remove();
  if (focused) (next?.querySelector(".open") ?? document.getElementById("files")).focus();
}

export function setThumbnail(picture, canvas) {
  picture.canvas = canvas;
  picture.card.querySelector(".thumb").replaceChildren(canvas);
}

export function updateCard(picture, models) {
  const { card, phase, view } = picture;
  const { words, badge, done } = statusOf(picture, models);
  card.dataset.state = phase === "known" ? (view?.state ?? "unknown") : phase;
  const put = (selector, said) => {
    const part = card.querySelector(selector);
    if (part.textContent !== said) part.textContent = said;
  };
  put(".badge", badge);
  put(".state", words);
  const progress = card.querySelector("progress");
  progress.hidden = !busy(picture) || done === undefined;
  progress.setAttribute("aria-label", picture.name);
  if (done === null || done === undefined) progress.removeAttribute("value");
  else progress.value = done;
}

export function markOpen(picture) {
  for (const card of list.children) {
    const open = card === picture?.card;
    card.classList.toggle("opened", open);
    card.querySelector(".open").setAttribute("aria-pressed", String(open));
    if (open) card.scrollIntoView({ block: "nearest", inline: "nearest" });
  }
}
