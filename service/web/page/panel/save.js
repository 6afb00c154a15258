// Saving: the service makes the file from the settings of the open picture, so it equals the preview.

import { createMap, isEmpty, setLevels } from "../brush/map.js";
import { greyPng } from "../brush/png.js";
import { received } from "../net/api.js";
import { result, resultByMap } from "../net/results.js";
import { showGone } from "../pictures/pictures.js";

const EXTENSIONS = { jpeg: "jpg", tiff: "tiff" };
let latest = { key: "", file: null };

/** The file `{blob, name}` of a picture; the last one is cached, so showing its size does not make it twice. */
export function fileOf(picture, settings = picture.settings) {
  const { id } = picture;
  const key = JSON.stringify([id, picture.tradeOff, settings, picture.painted ?? 0]);
  if (latest.key !== key) {
    const file = make({ ...picture, settings });
    latest = { key, file };
    file.catch((problem) => {
      if (latest.file === file) latest = { key: "", file: null };
      if (picture.id === id) showGone(picture, problem);
    });
  }
  return latest.file;
}

async function make({ id, tradeOff, map, paint, settings, view, name }) {
  const { format, quality } = settings;
  const { width, height } = outputSize(view.result, settings);
  const wanted = { format, quality };
  if (width < view.result.width) Object.assign(wanted, { width, height });
  if (!settings.scale) wanted.dpi = settings.dpi;
  let ask = () => result(id, { trade_off: tradeOff, ...wanted });
  map ??= paint && createMap(view.result, paint); // there is no map yet if the picture was not opened since a reload
  if (!isEmpty(map)) {
    setLevels(map, tradeOff);
    const levels = await greyPng(map);
    ask = () => resultByMap(id, levels, wanted);
  }
  return received(ask, async (answer) => {
    const given = nameOf(answer.headers.get("Content-Disposition") ?? "");
    return { blob: await answer.blob(), name: given ?? fileName({ name, settings, view }) };
  });
}

/** The size of the file, at most that of the result: `settings.scale` times the photograph, or a width. */
export function outputSize(made, { scale, width }) {
  const factor = scale ? Math.min(1, scale / 4) : Math.min(1, width / made.width);
  return { width: Math.max(1, Math.round(made.width * factor)), height: Math.max(1, Math.round(made.height * factor)) };
}

/** For example "kitten-4x.jpg". */
export function fileName({ name, settings, view }) {
  const stem = name.replace(/\.[^.]*$/, "") || name;
  const scale = (4 * outputSize(view.result, settings).width) / view.result.width;
  return `${stem}-${Number(scale.toFixed(2))}x.${EXTENSIONS[settings.format] ?? settings.format}`;
}

function nameOf(disposition) {
  const encoded = /filename\*=UTF-8''([^;]+)/.exec(disposition);
  if (encoded) return decodeURIComponent(encoded[1]);
  return /filename="([^"]*)"/.exec(disposition)?.[1];
}

/** Download a file in the browser. */
export function save(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}
