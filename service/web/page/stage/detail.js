// The shares of measured and invented fine detail, as the service defines them. Invented is the
// difference to the faithful branch; measured is the faithful branch minus the mean of each block of
// 4 x 4 pixels; both are sums over all samples. At the slider's 0 nothing is invented.

const CELL = 4; // pixels of the result for one of the original
const BLOCK = 2 * CELL;
const STRIP = 16 * BLOCK;
/** Trade-offs at which invented detail is summed; between two of them the sum is nearly linear. */
const KNOTS = [0.5, 0.625, 0.75, 0.875, 1];
/** Mean differences of a sample, in levels, at which detail is drawn opaque. */
const STRONG = { measured: 16, invented: 12 };
/** Maximum opacity of each colour over the photograph. */
const COVER = { measured: 0.3, invented: 0.8 };
const BLUE = [74, 163, 255];
const AMBER = [255, 180, 84];

/**
 * Sums of a layer for each block: `measured`, and `invented` for each of the knots. Yields to the page
 * between strips; null if the signal aborts it.
 */
export async function measureDetail({ scale, psnr, fused, gan }, signal) {
  const { width, height } = psnr;
  const columns = Math.ceil(width / BLOCK);
  const rows = Math.ceil(height / BLOCK);
  const sums = () => new Float32Array(columns * rows);
  const detail = { columns, rows, across: 1 / scale, factor: 1, measured: sums(), invented: KNOTS.map(sums) };
  const sheet = new OffscreenCanvas(width, Math.min(height, STRIP)).getContext("2d", { willReadFrequently: true });
  for (let top = 0; top < height; top += STRIP) {
    await new Promise((resolve) => setTimeout(resolve));
    if (signal.aborted) return null;
    const tall = Math.min(height - top, STRIP);
    const [faithful, chosen, crisp] = [psnr, fused, gan].map((bitmap) => {
      sheet.clearRect(0, 0, width, tall);
      sheet.drawImage(bitmap, 0, -top);
      return sheet.getImageData(0, 0, width, tall).data;
    });
    sumMeasured(detail, top, faithful, width, tall);
    sumInvented(detail, top, faithful, chosen, crisp, width, tall);
  }
  return detail;
}

function sumMeasured({ columns, measured }, top, faithful, width, tall) {
  for (let y = 0; y + CELL <= tall; y += CELL) {
    const line = Math.floor((top + y) / BLOCK) * columns;
    for (let x = 0; x + CELL <= width; x += CELL) {
      let apart = 0;
      for (let channel = 0; channel < 3; channel += 1) {
        let sum = 0;
        for (let row = y; row < y + CELL; row += 1) {
          const start = 4 * (row * width + x) + channel;
          sum += faithful[start] + faithful[start + 4] + faithful[start + 8] + faithful[start + 12];
        }
        const mean = sum / (CELL * CELL);
        for (let row = y; row < y + CELL; row += 1) {
          const start = 4 * (row * width + x) + channel;
          for (let at = start; at < start + 4 * CELL; at += 4) apart += Math.abs(faithful[at] - mean);
        }
      }
      measured[line + ((x / BLOCK) | 0)] += apart;
    }
  }
}

function sumInvented({ columns, invented }, top, faithful, chosen, crisp, width, tall) {
  const [middle, early, half, late, end] = invented;
  for (let y = 0; y < tall; y += 1) {
    const line = Math.floor((top + y) / BLOCK) * columns;
    for (let x = 0; x < width; x += 1) {
      const block = line + ((x / BLOCK) | 0);
      const start = 4 * (y * width + x);
      for (let at = start; at < start + 3; at += 1) {
        const ofFused = chosen[at] - faithful[at];
        const step = (crisp[at] - chosen[at]) / 4;
        middle[block] += Math.abs(ofFused);
        early[block] += Math.abs(ofFused + step);
        half[block] += Math.abs(ofFused + 2 * step);
        late[block] += Math.abs(ofFused + 3 * step);
        end[block] += Math.abs(ofFused + 4 * step);
      }
    }
  }
}

/**
 * Scale the sums so that the whole picture, at the trade-off that it was made with, has the share that
 * the service measured: a preview lacks some detail, and its compression adds some.
 */
export function calibrate(detail, { options, result }) {
  const share = inventedShare(detail, { left: 0, top: 0, right: detail.columns, bottom: detail.rows }, () => options.trade_off);
  if (typeof result.invented !== "number" || result.invented >= 1 || !share || share === 1) return;
  detail.factor = (result.invented / (1 - result.invented)) * ((1 - share) / share);
}

/** The invented sum of a block at a trade-off. */
function inventedIn({ invented, factor }, block, tradeOff) {
  if (tradeOff <= KNOTS[0]) return factor * (tradeOff / KNOTS[0]) * invented[0][block];
  const place = ((tradeOff - KNOTS[0]) / (1 - KNOTS[0])) * (KNOTS.length - 1);
  const below = Math.min(KNOTS.length - 2, Math.floor(place));
  const one = invented[below][block];
  return factor * (one + (place - below) * (invented[below + 1][block] - one));
}

/** The invented share of the fine detail in a box of blocks; `tradeOffAt(column, row)`. */
export function inventedShare(detail, box, tradeOffAt) {
  let measured = 0;
  let invented = 0;
  for (let row = box.top; row < box.bottom; row += 1) {
    for (let column = box.left; column < box.right; column += 1) {
      const block = row * detail.columns + column;
      measured += detail.measured[block];
      invented += inventedIn(detail, block, tradeOffAt(column, row));
    }
  }
  return invented ? invented / (invented + measured) : 0;
}

/** An overlay with one pixel for each block: amber if its detail is invented, blue if it is measured. */
export function drawDetail(detail, tradeOffAt) {
  const image = new ImageData(detail.columns, detail.rows);
  const samples = 3 * BLOCK * BLOCK;
  for (let block = 0; block < detail.measured.length; block += 1) {
    const tradeOff = tradeOffAt(block % detail.columns, Math.floor(block / detail.columns));
    const invented = inventedIn(detail, block, tradeOff) / samples;
    const measured = detail.measured[block] / samples;
    const blue = COVER.measured * Math.min(1, measured / STRONG.measured);
    const amber = COVER.invented * Math.min(1, invented / STRONG.invented);
    // squared, since a plain mean of amber and blue is grey
    const share = amber && amber ** 2 / (amber ** 2 + blue ** 2);
    for (let c = 0; c < 3; c += 1) image.data[4 * block + c] = BLUE[c] + (AMBER[c] - BLUE[c]) * share;
    image.data[4 * block + 3] = 255 * (amber + blue - amber * blue);
  }
  return image;
}

/** The blocks that a rectangle of the result touches. */
export function blocksIn(detail, { left, top, right, bottom }) {
  const side = BLOCK * detail.across;
  return {
    left: Math.max(0, Math.floor(left / side)),
    top: Math.max(0, Math.floor(top / side)),
    right: Math.min(detail.columns, Math.ceil(right / side)),
    bottom: Math.min(detail.rows, Math.ceil(bottom / side)),
  };
}

export { BLOCK };
