// Export: size, format, quality and what goes with the picture; to a file, the clipboard or another
// program; one, or all in a zip.

import { pictures } from "../pictures/pictures.js";
import { isReady } from "../pictures/status.js";
import { remember } from "../pictures/store.js";
import { bytes, count, decimal, size } from "../words/numbers.js";
import { text } from "../words/text.js";
import { fileName, fileOf, outputSize, save } from "./save.js";
import { zipOf } from "./zip.js";

const at = (id) => document.getElementById(id);
const NAMES = { png: "PNG", jpeg: "JPEG", webp: "WebP", avif: "AVIF", tiff: "TIFF", jxl: "JPEG XL" };
const LOSSY = ["jpeg", "webp", "avif", "jxl"];
const SETTINGS = "gdsr.settings";
/** The file is made to tell its size when nothing was changed for so long, in milliseconds. */
const STILL = 600;
const DPI = 300;
const controls = ["scale", "width", "format", "quality", "metadata", "icc"];
const buttons = ["download", "copy", "share", "apply-all"];

/** Settings that a new picture begins with: those that were chosen last. */
export function usualSettings() {
  const usual = { scale: 4, width: 2000, format: "png", quality: 90, metadata: "strip", icc: "srgb" };
  try {
    return { ...usual, ...JSON.parse(localStorage.getItem(SETTINGS) ?? "{}") };
  } catch {
    return usual;
  }
}

/** `shown()` is the open picture; `changed()` is told of settings, `again()` asked to enlarge it again. */
export function createExport(shown, { changed, again }) {
  let timer = 0;
  let touched = false;

  function show() {
    const picture = shown();
    const ready = Boolean(picture && isReady(picture));
    for (const id of [...controls, ...buttons]) at(id).disabled = !ready;
    at("export-button").disabled = !ready;
    at("save-all").hidden = pictures.filter(isReady).length < 2;
    if (!ready) {
      for (const id of ["export-facts", "print", "scale"]) at(id).textContent = "";
      at("download").textContent = text("save");
      at("quality-row").hidden = true;
      return;
    }
    const { settings, view } = picture;
    at("scale").replaceChildren(
      ...[4, 3, 2, 1].map((scale) => new Option(text("sizeTimes", { times: scale, size: size(outputSize(view.result, { scale })) }), scale)),
      new Option(text("ownWidth"), ""),
    );
    for (const id of controls) at(id).value = settings[id];
    at("width").max = view.result.width;
    at("width-row").hidden = Boolean(settings.scale);
    at("quality-row").hidden = !LOSSY.includes(settings.format);
    at("quality-value").textContent = settings.quality;
    at("quality").style.setProperty("--at", `${settings.quality}%`);
    const pixels = outputSize(view.result, settings);
    const centimetres = (side) => decimal((side / DPI) * 2.54);
    at("print").textContent = text("print", { width: centimetres(pixels.width), height: centimetres(pixels.height) });
    at("file-name").textContent = fileName(picture);
    at("download").textContent = text("saveAs", { name: fileName(picture) });
    const made = view.options;
    at("apply-again").hidden = !picture.file || (made.metadata === settings.metadata && made.icc === settings.icc);
    at("copy").hidden = !window.ClipboardItem;
    at("share").hidden = !navigator.canShare;
    measureLater();
  }

  /** Tell the size of the file that a save would give, once somebody has looked at the export. */
  function measureLater() {
    clearTimeout(timer);
    at("export-facts").textContent = "";
    if (!touched) return;
    timer = setTimeout(async () => {
      const picture = shown();
      if (!picture || !isReady(picture)) return;
      at("export-facts").textContent = text("measuringSize");
      try {
        const { blob } = await fileOf(picture);
        if (picture === shown()) at("export-facts").textContent = text("fileSize", { size: bytes(blob.size) });
      } catch (problem) {
        at("export-facts").textContent = problem.message;
      }
    }, STILL);
  }

  /** Run something that takes a while, and say how it went. */
  async function telling(button, work) {
    const note = at("download-note");
    button.disabled = true;
    note.textContent = text("preparing");
    try {
      note.textContent = await work((words) => (note.textContent = words));
    } catch (problem) {
      note.textContent = problem.name === "AbortError" ? "" : problem.message;
    } finally {
      button.disabled = false;
    }
  }

  for (const id of controls) {
    at(id).addEventListener(id === "quality" ? "input" : "change", () => {
      const picture = shown();
      const numeric = ["scale", "width", "quality"].includes(id);
      let value = numeric ? Number(at(id).value) : at(id).value;
      if (id === "width") value = Math.min(picture.view.result.width, Math.max(1, Math.round(value) || 1));
      picture.settings = { ...picture.settings, [id]: value };
      touched = true;
      try {
        localStorage.setItem(SETTINGS, JSON.stringify(picture.settings));
      } catch {
        // private browsing, or full
      }
      if (picture.id) remember(picture.id, { settings: picture.settings });
      changed(picture);
      show();
    });
  }
  at("export-panel").addEventListener("focusin", () => {
    if (touched) return;
    touched = true;
    measureLater();
  });
  at("apply-again").addEventListener("click", again);

  const saveShown = () =>
    telling(at("download"), async () => {
      const { blob, name } = await fileOf(shown());
      save(blob, name);
      return text("saved", { name, size: bytes(blob.size) });
    });
  at("download").addEventListener("click", saveShown);
  at("copy").addEventListener("click", () =>
    telling(at("copy"), async () => {
      const picture = shown();
      const png = fileOf({ ...picture, settings: { ...picture.settings, format: "png" } }).then(({ blob }) => blob);
      await navigator.clipboard.write([new ClipboardItem({ "image/png": png })]);
      return text("copied");
    }),
  );
  at("share").addEventListener("click", () =>
    telling(at("share"), async () => {
      const { blob, name } = await fileOf(shown());
      await navigator.share({ files: [new File([blob], name, { type: blob.type })] });
      return text("shared");
    }),
  );
  at("apply-all").addEventListener("click", () => {
    const { settings, tradeOff } = shown();
    for (const picture of pictures) {
      Object.assign(picture, { settings: { ...settings }, tradeOff });
      if (picture.id) remember(picture.id, { settings, tradeOff });
    }
    at("download-note").textContent = text("applied");
  });
  at("save-all").addEventListener("click", () =>
    telling(at("save-all"), async (say) => {
      const all = pictures.filter(isReady);
      const files = [];
      for (const picture of all) {
        say(text("packing", { done: count(files.length + 1), all: count(all.length) }));
        files.push(await fileOf(picture));
      }
      const zip = await zipOf(files);
      save(zip, "gdsr.zip");
      return text("saved", { name: "gdsr.zip", size: bytes(zip.size) });
    }),
  );

  return {
    show,
    saveShown,
    setFormats: (formats) => at("format").replaceChildren(...formats.map(({ name }) => new Option(NAMES[name] ?? name.toUpperCase(), name))),
  };
}
