// A slice as a picture of its own size, made anew only where its data or its colours have changed.

// Stored value (0 to 65535) -> grey pixel, for a window (low, high) in stored values.
export function greyTable(low, high) {
  const table = new Uint32Array(65536);
  const width = Math.max(high - low, 1e-6);
  for (let value = 0; value < 65536; value++) {
    const grey = Math.round(255 * Math.min(1, Math.max(0, (value - low) / width)));
    table[value] = 0xff000000 | (grey << 16) | (grey << 8) | grey;
  }
  return table;
}

export class SliceLayer {
  constructor(columns, rows) {
    this.canvas = new OffscreenCanvas(columns, rows);
    this.context = this.canvas.getContext("2d");
    this.picture = this.context.createImageData(columns, rows);
    this.pixels = new Uint32Array(this.picture.data.buffer);
  }

  // table: stored value -> pixel; nothing is done if both are those of the last time.
  draw(data, table) {
    if (data === this.data && table === this.table) return this.canvas;
    Object.assign(this, { data, table });
    for (let n = 0; n < data.length; n++) this.pixels[n] = table[data[n]];
    this.context.putImageData(this.picture, 0, 0);
    return this.canvas;
  }
}

const ONLY_FIRST = 0xfff7ab4d, ONLY_SECOND = 0xff2f8bff, BOTH_OTHER = 0xffe0e0e0; // ABGR: blue, orange, grey

export class LabelLayer extends SliceLayer {
  forget() {
    this.data = undefined;
  }

  // Where two label maps differ: only in the first, only in the second, other labels in both.
  drawDifference(first, second, shown) {
    for (let n = 0; n < first.length; n++) {
      const a = shown[first[n]] ? first[n] : 0, b = shown[second[n]] ? second[n] : 0;
      this.pixels[n] = a === b ? 0 : !b ? ONLY_FIRST : !a ? ONLY_SECOND : BOTH_OTHER;
    }
    this.context.putImageData(this.picture, 0, 0);
    this.forget();
    return this.canvas;
  }
}
