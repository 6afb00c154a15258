// What stands below the stage: the slider and its stops, the download, and the strip of facts.

import { result } from "./results.js";
import { bytes, duration, meaning, position, size } from "./words.js";

const slider = document.getElementById("trade-off");
const number = document.getElementById("position");
const sense = document.getElementById("meaning");
const stops = [...document.querySelectorAll("[data-stop]")];
const format = document.getElementById("format");
const download = document.getElementById("download");
const note = document.getElementById("download-note");
const facts = document.getElementById("facts");

const STAGES = { queue: "waited", decode: "opened", infer: "network", blend: "blended", encode: "saved" };
const NAMES = { png: "PNG", jpeg: "JPEG", webp: "WebP", avif: "AVIF", jxl: "JPEG XL" };

/** Tell of each position that is chosen, while the slider moves. */
export function onSlider(tell) {
  slider.addEventListener("input", () => {
    showPosition(slider.valueAsNumber);
    tell(slider.valueAsNumber);
  });
  for (const stop of stops) {
    stop.addEventListener("click", () => {
      slider.value = stop.dataset.stop;
      slider.dispatchEvent(new Event("input"));
      slider.dispatchEvent(new Event("change"));
    });
  }
}

export function showPosition(tradeOff) {
  slider.value = tradeOff;
  slider.style.setProperty("--at", `${100 * tradeOff}%`);
  number.textContent = position(tradeOff);
  sense.textContent = meaning(tradeOff);
  slider.setAttribute("aria-valuetext", `${position(tradeOff)}. ${meaning(tradeOff)}`);
  for (const stop of stops) {
    stop.setAttribute("aria-pressed", String(Number(stop.dataset.stop) === tradeOff));
  }
  note.textContent = "";
}

/** Whether there is a result to choose a position of. */
export function enable(there) {
  for (const control of [slider, download, format, ...stops]) control.disabled = !there;
  document.getElementById("mask").disabled = !there;
}

export function setFormats(formats) {
  format.replaceChildren(...formats.map(({ name }) => new Option(NAMES[name] ?? name.toUpperCase(), name)));
}

/** On a click, fetch exactly what is shown, from the service, and hand it to the browser. */
export function onDownload(shown) {
  download.addEventListener("click", async () => {
    const picture = shown();
    download.disabled = true;
    note.textContent = "Preparing the file";
    try {
      const { blob, name } = await fetchResult(picture, format.value);
      save(blob, name);
      note.textContent = `${name}, ${bytes(blob.size)}`;
    } catch (problem) {
      note.textContent = problem.detail || problem.message;
    } finally {
      download.disabled = false;
    }
  });
}

async function fetchResult({ id, tradeOff }, wanted) {
  const answer = await result(id, { trade_off: tradeOff, format: wanted });
  return { blob: await answer.blob(), name: nameOf(answer.headers.get("Content-Disposition") ?? "") };
}

function nameOf(disposition) {
  const encoded = /filename\*=UTF-8''([^;]+)/.exec(disposition);
  if (encoded) return decodeURIComponent(encoded[1]);
  return /filename="([^"]*)"/.exec(disposition)?.[1] ?? "result";
}

function save(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

/** What was done to a picture, by which model, where, and how long it took. */
export function showFacts({ view }, models) {
  const made = view?.result;
  if (!made) return facts.replaceChildren();
  const card = models.find((model) => model.name === made.model)?.card;
  const scores = card?.scores?.Set14;
  const rows = [
    ["Result", `${size(made)}, kept until ${clock(made.expires_at)}`],
    ["Model", made.model],
    ["Device", `${made.device}, ${made.precision}`],
    ["Time", Object.entries(made.seconds).map(([stage, it]) => `${STAGES[stage] ?? stage} ${duration(it)}`).join(" · ")],
  ];
  if (scores?.psnr && scores.fused && scores.gan) {
    const values = [scores.psnr, scores.fused, scores.gan].map((score) => score.psnr_y.toFixed(1));
    rows.splice(2, 0, ["Likeness, PSNR on Set14", `${values.join(" / ")} dB at faithful / balanced / crisp`]);
  }
  if (made.warnings.length) rows.push(["Note", made.warnings.join("; ")]);
  facts.replaceChildren(
    ...rows.map(([term, value]) => {
      const row = document.createElement("div");
      const dt = document.createElement("dt");
      const dd = document.createElement("dd");
      dt.textContent = term;
      dd.textContent = value;
      row.append(dt, dd);
      return row;
    }),
  );
}

function clock(time) {
  return new Date(time).toLocaleTimeString("en", { hour: "2-digit", minute: "2-digit", hour12: false });
}
