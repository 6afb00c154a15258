// The shares of measured and invented fine detail of a picture.
//
// Measured is what the faithful branch has finer than about four pixels of the original; invented is
// what the shown picture adds to it or changes in it. Both are energies of luma, summed over blocks,
// and a share compares their roots. At the slider's 0 nothing is invented, exactly.

const BLOCK = 8;
const REACH = 4; // pixels of the result: one of the original
const STRIP = 128;
/** Root mean squares, in levels, at which measured and invented detail are drawn in full. */
const STRONG = { measured: 24, invented: 20 };
/** How much of the photograph each may cover. */
const COVER = { measured: 0.3, invented: 0.8 };
const BLUE = [74, 163, 255];
const AMBER = [255, 180, 84];

/**
 * Sums of a layer for each block: `measured`, and for the invented part `fused`, `gan` (squares of
 * what they change) and `both` (their product). Lets the page breathe between strips.
 */
export async function measureDetail({ area, psnr, fused, gan }, signal) {
  const { width, height } = psnr;
  const columns = Math.ceil(width / BLOCK);
  const rows = Math.ceil(height / BLOCK);
  const sums = () => new Float32Array(columns * rows);
  const detail = { columns, rows, across: area[2] / width, measured: sums(), fused: sums(), gan: sums(), both: sums() };
  const sheet = new OffscreenCanvas(width, Math.min(height, STRIP + 2 * REACH)).getContext("2d", { willReadFrequently: true });
  for (let top = 0; top < height; top += STRIP) {
    await new Promise((resolve) => setTimeout(resolve));
    if (signal.aborted) return null;
    const above = Math.min(top, REACH);
    const tall = Math.min(height - top, STRIP + REACH) + above;
    const [faithful, chosen, crisp] = [psnr, fused, gan].map((bitmap) => {
      sheet.clearRect(0, 0, width, tall);
      sheet.drawImage(bitmap, 0, above - top);
      return lumas(sheet.getImageData(0, 0, width, tall).data);
    });
    const end = Math.min(height, top + STRIP);
    for (let y = top; y < end; y += 1) {
      const row = y - top + above;
      const up = Math.max(0, row - REACH) * width;
      const down = Math.min(tall - 1, row + REACH) * width;
      const line = Math.floor(y / BLOCK) * columns;
      for (let x = 0; x < width; x += 1) {
        const i = row * width + x;
        const left = faithful[row * width + Math.max(0, x - REACH)];
        const right = faithful[row * width + Math.min(width - 1, x + REACH)];
        const fine = faithful[i] - (left + right + faithful[up + x] + faithful[down + x]) / 4;
        const ofFused = chosen[i] - faithful[i];
        const ofGan = crisp[i] - faithful[i];
        const block = line + ((x / BLOCK) | 0);
        detail.measured[block] += fine * fine;
        detail.fused[block] += ofFused * ofFused;
        detail.gan[block] += ofGan * ofGan;
        detail.both[block] += ofFused * ofGan;
      }
    }
  }
  return detail;
}

function lumas(data) {
  const luma = new Float32Array(data.length / 4);
  for (let i = 0; i < luma.length; i += 1) {
    luma[i] = 0.2126 * data[4 * i] + 0.7152 * data[4 * i + 1] + 0.0722 * data[4 * i + 2];
  }
  return luma;
}

/** What a trade-off adds in a block, as energy. */
function inventedIn({ fused, gan, both }, block, tradeOff) {
  if (tradeOff <= 0.5) return 4 * tradeOff * tradeOff * fused[block];
  const crisp = 2 * tradeOff - 1;
  const rest = 1 - crisp;
  return Math.max(0, rest * rest * fused[block] + crisp * crisp * gan[block] + 2 * rest * crisp * both[block]);
}

/** The share of fine detail in a box of blocks that is invented; `tradeOffAt(column, row)`. */
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
  const sum = Math.sqrt(measured) + Math.sqrt(invented);
  return sum ? Math.sqrt(invented) / sum : 0;
}

/** One pixel for each block: amber where detail is invented, blue where it is measured. */
export function drawDetail(detail, tradeOffAt) {
  const image = new ImageData(detail.columns, detail.rows);
  for (let block = 0; block < detail.measured.length; block += 1) {
    const invented = Math.sqrt(inventedIn(detail, block, tradeOffAt(block % detail.columns, Math.floor(block / detail.columns)))) / BLOCK;
    const measured = Math.sqrt(detail.measured[block]) / BLOCK;
    const blue = COVER.measured * Math.min(1, measured / STRONG.measured);
    const amber = COVER.invented * Math.min(1, invented / STRONG.invented);
    const share = amber && amber / (amber + blue);
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
