// Methods of the viewer that draw its planes and surfaces.
import { unpack } from "./bones.js";
import { LabelLayer, SliceLayer, greyTable } from "./layers.js";
import { outlines } from "./outlines.js";

export const drawing = {
  makeTables() {
    const { low, step } = this.facts;
    const key = [this.greys.min, this.greys.max].join();
    if (key !== this.greyKey) {
      this.greyKey = key;
      this.grey = greyTable((this.greys.min - low) / step, (this.greys.max - low) / step);
    }
    const shown = this.facts.bones.filter(({ value }) => !this.hidden.includes(value)).map((b) => [b.value, b.colour]);
    const colourKey = shown.join();
    if (colourKey !== this.colourKey) {
      this.colourKey = colourKey;
      this.colours = new Map(shown);
      this.fill = new Uint32Array(256);
      for (const [value, [r, g, b]] of shown) this.fill[value] = 0xff000000 | (b << 16) | (g << 8) | r;
    }
  },

  attach() {
    this.observer.disconnect();
    for (const pane of this.panes) {
      const canvas = this.canvas(pane);
      if (canvas) this.observer.observe(canvas);
    }
    this.observer.observe(this.$refs.bones);
    this.fetch();
    this.draw();
  },

  canvas(pane) { return this.$refs[`canvas-${pane.id}`]?.[0]; },

  draw() {
    if (this.frame) return;
    this.frame = requestAnimationFrame(() => {
      this.frame = 0;
      for (const pane of this.panes) this.drawPane(pane);
    });
  },

  // Fetch the surfaces of bones that have changed since they were drawn.
  async drawBones() {
    this.status.stale = false;
    for (const { value, colour } of this.facts.bones) {
      const version = this.status.changed_at?.[value] ?? 0;
      if (this.drawn[value] === version) continue;
      const answer = await fetch(`${this.cache.base}/bone/${value}?version=${version}`);
      if (!answer.ok) continue;
      this.drawn[value] = version;
      this.bones.set(value, unpack(await answer.arrayBuffer()), colour);
      this.tellShown();
    }
    this.bones.fit();
  },
  // Index (left, back, head) -> RAS+ mm.
  world(index) {
    return this.facts.affine.slice(0, 3).map((line) => line.reduce((sum, v, i) => sum + v * (index[i] ?? 1), 0));
  },
  markBones() {
    if (!this.crosshair) return this.bones.mark(null);
    const middle = this.world(this.facts.shape.map((n) => (n - 1) / 2));
    const lengths = [0, 1, 2].map((axis) => this.facts.shape.reduce((sum, n, i) => sum + Math.abs(n * this.facts.affine[axis][i]), 0));
    this.bones.mark(this.world(this.cursor).map((v, i) => v - middle[i]), lengths);
  },

  drawPane(pane) {
    const canvas = this.canvas(pane);
    if (!canvas) return;
    const ratio = window.devicePixelRatio || 1;
    const [width, height] = [canvas.clientWidth, canvas.clientHeight];
    if (!width || !height) return;
    if (canvas.width !== Math.round(width * ratio)) canvas.width = Math.round(width * ratio);
    if (canvas.height !== Math.round(height * ratio)) canvas.height = Math.round(height * ratio);
    const context = canvas.getContext("2d");
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.fillStyle = "#000";
    context.fillRect(0, 0, width, height);
    const view = this.viewOf(pane);
    const [a, d, e, f] = view.matrix;
    context.save();
    context.transform(a, 0, 0, d, e, f);
    this.drawSlice(context, pane, view);
    context.restore();
    if (this.crosshair) this.drawCrosshair(context, view);
    this.drawMarks(context, view);
    this.drawBrush(context, pane, view);
  },

  viewOf(pane) {
    const canvas = this.canvas(pane), view = this.views[pane.plane];
    view.resize(canvas.clientWidth, canvas.clientHeight);
    view.mirrored = !this.radiological && pane.plane !== "sagittal";
    return view;
  },

  layersOf(pane) {
    const key = `${pane.id}/${pane.plane}`;
    if (!this.layers.has(key)) {
      const [columns, rows] = this.views[pane.plane].pixels;
      this.layers.set(key, { grey: new SliceLayer(columns, rows), labels: new LabelLayer(columns, rows) });
    }
    return this.layers.get(key);
  },

  drawSlice(context, pane, view) {
    const level = this.level(pane.plane), tools = this.layersOf(pane);
    const image = this.cache.get("image", pane.plane, level);
    if (image && this.show !== "mask") {
      context.imageSmoothingEnabled = this.smooth;
      context.imageSmoothingQuality = "low"; // bilinear: more would draw rims that are not there
      context.drawImage(tools.grey.draw(image, this.grey), 0, 0);
    }
    if (this.show === "scan") return;
    const first = this.cache.get("labels", pane.plane, level);
    const second = this.cache.get("other", pane.plane, level);
    context.imageSmoothingEnabled = false;
    if (pane.layer === "difference") {
      if (!first || !second) return;
      context.globalAlpha = 0.85;
      context.drawImage(tools.labels.drawDifference(first, second, this.fill), 0, 0);
      context.globalAlpha = 1;
      return;
    }
    const labels = pane.layer === "other" ? second : first;
    if (!labels) return;
    context.globalAlpha = this.show === "mask" ? 1 : this.opacity;
    if (context.globalAlpha > 0) context.drawImage(tools.labels.draw(labels, this.fill), 0, 0);
    context.globalAlpha = 1;
    if (this.contours) this.drawContours(context, labels, tools, view);
  },

  drawContours(context, labels, tools, view) {
    if (tools.outlined !== labels) {
      tools.outlined = labels;
      tools.paths = outlines(labels, ...view.pixels);
    }
    const [a, d] = view.matrix;
    for (const [value, path] of tools.paths) {
      const colour = this.colours.get(value);
      if (!colour) continue;
      const scaled = new Path2D(); // lines of the same width along rows and columns
      scaled.addPath(path, new DOMMatrix([a, 0, 0, d, 0, 0]));
      context.save();
      context.scale(1 / a, 1 / d);
      context.strokeStyle = `rgb(${colour})`;
      context.lineWidth = 1.6;
      context.lineCap = "round";
      context.stroke(scaled);
      context.restore();
    }
  },

  drawCrosshair(context, view) {
    const [x, y] = view.toCanvas(...this.onPlane(view.plane).map((n) => n + 0.5));
    context.strokeStyle = "rgba(150, 205, 255, 0.55)";
    context.lineWidth = 1;
    context.beginPath();
    for (const [from, to] of [[0, -14], [14, 0]]) {
      context.moveTo(from ? x + from : 0, y);
      context.lineTo(from ? view.width : x + to, y);
      context.moveTo(x, from ? y + from : 0);
      context.lineTo(x, from ? view.height : y + to);
    }
    context.stroke();
  },

  drawMarks(context, view) {
    const [left, right, top, bottom] = view.marks;
    context.font = "600 13px system-ui, sans-serif";
    context.textBaseline = "middle";
    context.textAlign = "center";
    context.lineWidth = 3;
    context.strokeStyle = "rgba(0, 0, 0, 0.8)";
    context.fillStyle = "#e6edf3";
    for (const [text, x, y] of [
      [left, 14, view.height / 2], [right, view.width - 14, view.height / 2],
      [top, view.width / 2, 36], [bottom, view.width / 2, view.height - 12],
    ]) {
      context.strokeText(text, x, y);
      context.fillText(text, x, y);
    }
  },

  drawBrush(context, pane, view) {
    if (this.tool === "look" || this.pointer?.pane !== pane.id) return;
    const [r, g, b] = this.facts.bones.find(({ value }) => value === this.bone)?.colour ?? [255, 255, 255];
    context.strokeStyle = this.tool === "erase" ? "#fff" : `rgb(${r}, ${g}, ${b})`;
    context.lineWidth = 1.5;
    context.setLineDash(this.tool === "erase" ? [4, 3] : []);
    context.beginPath();
    context.arc(this.pointer.x, this.pointer.y, Math.max(2, this.radius * view.scale), 0, 2 * Math.PI);
    context.stroke();
    context.setLineDash([]);
  },
};
