// Export: size, format, quality, metadata and profile; to a file, the clipboard or another program; one
// picture, or all of them in a zip.

import { isAway } from "../net/connection.js";
import { pictures } from "../pictures/pictures.js";
import { busy, isReady } from "../pictures/status.js";
import { remember } from "../pictures/store.js";
import { bytes, count, decimal, size } from "../words/numbers.js";
import { text } from "../words/text.js";
import { fileName, fileOf, outputSize, save } from "./save.js";
import { offerUndo } from "./undo.js";
import { zipOf } from "./zip.js";

const at = (id) => document.getElementById(id);
const NAMES = { png: "PNG", jpeg: "JPEG", webp: "WebP", avif: "AVIF", tiff: "TIFF", jxl: "JPEG XL" };
const LOSSY = ["jpeg", "webp", "avif", "jxl"];
const SETTINGS = "gdsr.settings";
/** Milliseconds without changes after which the file is made, to show its size. */
const STILL = 600;
const MOST_DPI = 65_535;
const centimetres = (pixels, dpi) => (pixels / dpi) * 2.54;
const controls = ["scale", "width", "dpi", "format", "quality", "metadata", "icc"];
/** Settings that need the picture to be enlarged again, from its file. */
const MADE_WITH = ["metadata", "icc"];
const buttons = ["download", "copy", "share", "apply-all"];

const differs = ({ settings, view }) => MADE_WITH.some((id) => settings[id] !== view.options[id]);
const canBeSaved = (picture) => isReady(picture) && !differs(picture);

/** Initial settings of a new picture: the last ones chosen. */
export function usualSettings() {
  const usual = { scale: 4, width: 2000, dpi: 300, format: "png", quality: 90, metadata: "strip", icc: "srgb" };
  try {
    return { ...usual, ...JSON.parse(localStorage.getItem(SETTINGS) ?? "{}") };
  } catch {
    return usual;
  }
}

function keepUsual(settings) {
  try {
    localStorage.setItem(SETTINGS, JSON.stringify(settings));
  } catch {
    // private browsing, or storage is full
  }
}

/** A picture whose file is not kept stays as it was made. */
function keepMade({ file, view, settings }) {
  if (!file && view) for (const id of MADE_WITH) settings[id] = view.options[id];
}

function canShare() {
  return navigator.canShare?.({ files: [new File([""], "photo.png", { type: "image/png" })] }) ?? false;
}

/**
 * `shown()` is the open picture, `again(picture)` enlarges it again, `restored()` is called when its
 * earlier settings are restored, `fail(words)` reports a failure.
 */
export function createExport(shown, again, restored, fail) {
  let timer = 0; // until the file is measured
  let saidOfSize = () => {};
  let touched = false;
  let last = null;
  let underWay = []; // operations in progress: their texts, and the elements that show them
  const widths = document.querySelectorAll(".width-row");

  function showAll() {
    const all = pictures.filter(canBeSaved).length;
    at("save-all").hidden = all < 2;
    at("save-all").textContent = text("saveAll", { count: count(all) });
  }

  function show() {
    const picture = shown();
    const ready = Boolean(picture && isReady(picture));
    for (const id of [...controls, ...buttons]) at(id).disabled = !ready;
    at("export-button").disabled = !ready;
    showAll();
    if (picture !== last || !ready) at("download-note").textContent = at("field-note").textContent = "";
    last = picture;
    if (!ready) {
      stopMeasuring();
      at("print").textContent = "";
      at("scale").replaceChildren(new Option("4×"));
      at("download").textContent = text("save");
      for (const part of [at("quality-row"), at("apply-again"), ...widths]) part.hidden = true;
      at("download").hidden = false;
      return;
    }
    keepMade(picture);
    const { settings, view } = picture;
    at("scale").replaceChildren(
      ...[4, 3, 2, 1].map((scale) => new Option(`${scale}× · ${size(outputSize(view.result, { scale }))}`, scale)),
      new Option(text("ownWidth"), 0),
    );
    for (const id of controls) at(id).value = settings[id];
    at("width").max = view.result.width;
    const width = Math.min(settings.width, view.result.width);
    at("width").value = width;
    at("print-width").value = centimetres(width, settings.dpi).toFixed(1);
    for (const row of widths) row.hidden = Boolean(settings.scale);
    at("quality-row").hidden = !LOSSY.includes(settings.format);
    at("quality-value").textContent = settings.quality;
    at("quality").style.setProperty("--at", `${settings.quality}%`);
    const pixels = outputSize(view.result, settings);
    const [across, down] = [pixels.width, pixels.height].map((side) => decimal(centimetres(side, settings.dpi)));
    at("print").textContent = text("print", { width: across, height: down, dpi: settings.dpi });
    at("download").textContent = text("saveAs", { name: fileName(picture) });
    for (const id of MADE_WITH) at(id).disabled = !picture.file;
    at("apply-again").hidden = !differs(picture);
    for (const id of ["download", "copy", "share"]) at(id).disabled = differs(picture);
    at("download").hidden = differs(picture);
    measureLater();
  }

  /** Show the size of the file that a save would give, once the export panel has been used. */
  function measureLater() {
    stopMeasuring();
    if (!touched) return;
    const mine = setTimeout(async () => {
      const picture = shown();
      if (!picture || !canBeSaved(picture)) return;
      saidOfSize = saying(at("export-facts"), text("measuringSize"), text("waitsForConnection"));
      const words = await fileOf(picture).then(({ blob }) => bytes(blob.size), ({ message }) => message);
      if (timer !== mine) return; // settings have changed since
      saidOfSize();
      at("export-facts").textContent = words;
    }, STILL);
    timer = mine;
  }

  function stopMeasuring() {
    clearTimeout(timer);
    timer = 0;
    saidOfSize();
    at("export-facts").textContent = "";
  }

  /** Show the state of an operation that needs the connection, until the returned function is called. */
  function saying(part, words, wordsAway) {
    const one = () => (part.textContent = isAway() ? wordsAway : words);
    underWay.push(one);
    one();
    return () => (underWay = underWay.filter((it) => it !== one));
  }

  /** Run an operation that takes a while, and report its outcome. */
  async function telling(button, work) {
    const note = at("download-note");
    button.disabled = true;
    const said = saying(note, text("preparing"), text("fileLater"));
    try {
      note.textContent = await work();
    } catch (problem) {
      note.textContent = problem.name === "AbortError" ? "" : problem.message;
    } finally {
      said();
      show();
    }
  }

  /** The entered number, limited to the maximum, or null; corrections are shown. */
  function within(id, value, least, most) {
    const fits = value >= least && value <= most;
    const [from, to] = [Math.ceil(10 * least) / 10, Math.floor(10 * most) / 10].map(decimal);
    at("field-note").textContent = fits ? "" : text("outOfRange", { name: at(id).labels[0].textContent, least: from, most: to });
    return value >= least ? Math.min(value, most) : null;
  }

  for (const id of controls) {
    at(id).addEventListener(id === "quality" ? "input" : "change", () => {
      const picture = shown();
      const numeric = ["scale", "width", "dpi", "quality"].includes(id);
      let value = numeric ? Number(at(id).value) : at(id).value;
      if (id === "width") value = within(id, Math.round(value), 1, picture.view.result.width);
      if (id === "dpi") value = within(id, Math.round(value), 1, MOST_DPI);
      if (value === null) return show(); // restores the previous value
      picture.settings = { ...picture.settings, [id]: value };
      touched = true;
      keepUsual(picture.settings);
      if (picture.id) remember(picture.id, { settings: picture.settings });
      show();
    });
  }
  at("print-width").addEventListener("change", () => {
    const { settings, view } = shown();
    const most = centimetres(view.result.width, settings.dpi);
    const wide = within("print-width", at("print-width").valueAsNumber, centimetres(1, settings.dpi), most);
    if (wide === null) return show();
    const { textContent } = at("field-note");
    at("width").value = Math.max(1, Math.round((wide / 2.54) * settings.dpi));
    at("width").dispatchEvent(new Event("change"));
    at("field-note").textContent = textContent;
  });
  at("export-panel").addEventListener("focusin", () => {
    if (touched) return;
    touched = true;
    measureLater();
  });
  at("apply-again").querySelector("button").addEventListener("click", () => again(shown()));

  /** Change the settings of a picture; enlarge it again if it was made with others. */
  function use(picture, { settings, tradeOff }) {
    const begun = picture.phase === "sending" || (picture.phase === "waiting" && picture.problem);
    const onItsWay = begun && MADE_WITH.some((id) => picture.settings[id] !== settings[id]);
    Object.assign(picture, { settings, tradeOff });
    keepMade(picture);
    if (picture.id) remember(picture.id, { settings, tradeOff });
    const made = picture.view && (isReady(picture) || (busy(picture) && !picture.cancelling)) && differs(picture);
    if (picture.file && (onItsWay || made)) again(picture);
  }

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
      const png = fileOf(picture, { ...picture.settings, format: "png" }).then(({ blob }) => blob);
      await navigator.clipboard.write([new ClipboardItem({ "image/png": png })]);
      return text("copied");
    }),
  );
  at("share").addEventListener("click", () =>
    telling(at("share"), async () => {
      const { blob, name } = await fileOf(shown());
      try {
        await navigator.share({ files: [new File([blob], name, { type: blob.type })] });
        return text("shared");
      } catch (problem) {
        if (problem.name !== "NotAllowedError") throw problem;
        return text("shareAgain"); // browsers forget a click within seconds
      }
    }),
  );
  at("apply-all").addEventListener("click", () => {
    const { settings, tradeOff } = shown();
    const usual = usualSettings();
    keepUsual(settings); // also for later pictures
    const applied = JSON.stringify(usualSettings());
    const changed = pictures.map((picture) => {
      const before = { settings: picture.settings, tradeOff: picture.tradeOff };
      use(picture, { settings: { ...settings }, tradeOff });
      return { picture, before, given: picture.settings };
    });
    offerUndo(text("applied"), () => {
      if (JSON.stringify(usualSettings()) === applied) keepUsual(usual);
      for (const { picture, before, given } of changed) {
        if (picture.removed) continue;
        if (picture.settings !== given) before.settings = picture.settings; // changed by hand since
        if (picture.tradeOff !== tradeOff) before.tradeOff = picture.tradeOff;
        use(picture, before);
        if (picture === shown()) restored();
      }
    });
  });
  at("save-all").addEventListener("click", async () => {
    const button = at("save-all");
    button.disabled = true;
    try {
      const all = pictures.filter(canBeSaved);
      const files = [];
      const missing = [];
      for (const [done, picture] of all.entries()) {
        const words = text("packing", { done: count(done + 1), all: count(all.length) });
        const said = saying(button, words, text("waitsForConnection"));
        try {
          files.push(await fileOf(picture).finally(said));
        } catch (problem) {
          missing.push(`${picture.name}: ${problem.message}`);
        }
      }
      if (files.length) save(await zipOf(files), "gdsr.zip");
      if (missing.length) fail(missing.join("; "));
    } catch (problem) {
      fail(problem.message);
    } finally {
      button.disabled = false;
      showAll();
    }
  });

  at("copy").hidden = !window.ClipboardItem;
  at("share").hidden = !canShare();

  return {
    show,
    showAll,
    showConnection: () => underWay.forEach((one) => one()),
    saveShown: () => !at("download").disabled && saveShown(),
    setFormats: (formats) => at("format").replaceChildren(...formats.map(({ name }) => new Option(NAMES[name] ?? name.toUpperCase(), name))),
  };
}
