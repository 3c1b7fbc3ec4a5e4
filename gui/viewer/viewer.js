// The viewer: planes of a scan with labels, a pane for surfaces, bones, comparison, painting.
import {
  BoneView, LabelLayer, PlaneView, SliceCache, SliceLayer, greyTable, outlines, paintLine, template, unpack,
} from "lls-viewer";

const AXIS = { sagittal: 0, coronal: 1, axial: 2 };
const PLANES = ["axial", "coronal", "sagittal"];
const CACHE_BYTES = 400 << 20, AHEAD = 10;
const LAYOUTS = [
  { value: "all", icon: "grid_view", tip: "Three planes and surfaces (1)" },
  { value: "axial", label: "Axial", tip: "Axial plane alone (2)" },
  { value: "coronal", label: "Coronal", tip: "Coronal plane alone (3)" },
  { value: "sagittal", label: "Sagittal", tip: "Sagittal plane alone (4)" },
  { value: "surfaces", label: "3D", tip: "Surfaces alone (5)" },
];
const KEYS = [
  ["Wheel, ↑ ↓, Page ↑ ↓", "next and previous slice; ten slices"],
  ["Click, drag", "move the crosshair"],
  ["Drag with the right button", "brightness and contrast"],
  ["Ctrl + wheel, + −", "zoom"],
  ["Shift + drag, middle button", "move the picture"],
  ["Double click, 1 to 5", "one plane large, all planes"],
  ["Space", "labels on and off"],
  ["O", "contours on and off"],
  ["0", "fit the pictures"],
  ["B, E, N", "paint, erase, look"],
  ["[ ]", "smaller and larger brush"],
  ["Ctrl + Z, Ctrl + Y", "undo, redo"],
];

export default {
  template,
  props: { facts: Object, base: String, editable: Boolean },

  data() {
    return {
      cursor: [...this.facts.start],
      layout: "all",
      comparedPlane: "axial",
      greys: { min: this.facts.window[0], max: this.facts.window[1] },
      show: "both",
      opacity: 0.35,
      contours: true,
      smooth: true,
      radiological: true,
      crosshair: true,
      hidden: [],
      bone: this.facts.bones[0]?.value,
      tool: "look",
      radius: 4,
      over: false,
      status: { can_undo: false, can_redo: false, unsaved: false, stale: false, message: "" },
      scores: this.facts.scores,
      busy: "",
      readout: "",
      problem: "",
      help: false,
      layouts: this.facts.compare
        ? [...LAYOUTS, { value: "compare", label: "Compare", tip: "Two label maps and where they differ (6)" }]
        : LAYOUTS,
      keys: KEYS,
    };
  },

  computed: {
    panes() {
      if (this.layout === "compare") {
        return [
          { id: "first", layer: "labels", title: "Labels" },
          { id: "second", layer: "other", title: "Compared with" },
          { id: "difference", layer: "difference", title: "Difference" },
        ].map((pane) => ({ ...pane, plane: this.comparedPlane }));
      }
      const planes = this.layout === "all" ? PLANES : PLANES.filter((plane) => plane === this.layout);
      return planes.map((plane) => ({ id: plane, plane, layer: "labels", title: plane }));
    },
    tall() { // legs are: their two long planes take the whole height then
      const [wide, , tall] = this.facts.shape.map((n, i) => n * this.facts.sizes[i]);
      return tall > 1.3 * wide;
    },
    looks() { // all that a redraw depends on and the user sets
      return [this.greys, this.show, this.opacity, this.contours, this.smooth, this.radiological,
        this.crosshair, this.hidden, this.bone, this.radius, this.tool];
    },
  },

  watch: {
    looks: { deep: true, handler() { this.makeTables(); this.draw(); } },
    panes() { this.$nextTick(this.attach); },
    cursor() { this.fetch(); this.draw(); this.markBones(); },
    crosshair() { this.markBones(); },
  },

  created() {
    const [l, p, s] = this.facts.shape, [ml, mp, ms] = this.facts.sizes;
    this.views = {
      axial: new PlaneView("axial", [l, p], [ml, mp]),
      coronal: new PlaneView("coronal", [l, s], [ml, ms]),
      sagittal: new PlaneView("sagittal", [p, s], [mp, ms]),
    };
    this.cache = new SliceCache(
      `${window.path_prefix ?? ""}${this.base}`, CACHE_BYTES, () => this.draw(), (text) => (this.problem = text),
    );
    this.layers = new Map(); // pane -> what it is drawn from
    this.pointer = null;
    this.ahead = 1;
    this.makeTables();
  },

  mounted() {
    this.observer = new ResizeObserver(() => { this.draw(); this.bones.draw(); });
    const [wide, , tall] = this.facts.shape.map((n, i) => n * this.facts.sizes[i]);
    this.bones = new BoneView(this.$refs.bones, [0.6 * wide, tall]);
    this.drawn = {}; // bone -> version of the labels that its surface was made of
    this.attach();
    this.fetch();
    this.drawBones();
    this.markBones();
    this.onLeave = (event) => { if (this.status.unsaved) event.preventDefault(); };
    window.addEventListener("beforeunload", this.onLeave);
  },

  beforeUnmount() {
    this.observer.disconnect();
    window.removeEventListener("beforeunload", this.onLeave);
    this.cache.want([]);
  },

  methods: {
    // ---- called by the server

    edited(status) {
      const changed = status.version !== this.status.version;
      const stale = Object.entries(status.changed_at).some(([value, version]) => (this.drawn[value] ?? 0) < version);
      this.status = { ...status, stale };
      this.busy = "";
      if (status.scores) this.scores = status.scores;
      if (!changed && !status.message) return; // refused: what was shown at once is not so
      if (this.stroke) return (this.outdated = true);
      this.cache.outdate("labels");
      this.fetch();
    },

    // ---- planes and slices

    level(plane) { return this.cursor[AXIS[plane]]; },
    count(plane) { return this.facts.shape[AXIS[plane]]; },
    stored(plane) {
      const level = this.level(plane);
      return this.facts.flipped[AXIS[plane]] ? this.count(plane) - 1 - level : level;
    },
    setLevel(plane, level) {
      const axis = AXIS[plane], next = Math.min(this.count(plane) - 1, Math.max(0, Math.round(level)));
      if (next === this.cursor[axis]) return;
      this.ahead = Math.sign(next - this.cursor[axis]);
      this.cursor = this.cursor.map((n, i) => (i === axis ? next : n));
    },
    // Crosshair as pixel of a plane, and back.
    onPlane(plane) {
      const [l, p, s] = this.cursor, down = this.facts.shape[2] - 1 - s;
      return { axial: [l, p], coronal: [l, down], sagittal: [p, down] }[plane];
    },
    voxel(plane, column, row) {
      const [l, p, s] = this.cursor, up = this.facts.shape[2] - 1 - row;
      const index = { axial: [column, row, s], coronal: [column, p, up], sagittal: [l, column, up] }[plane];
      return index.map((n, i) => Math.min(this.facts.shape[i] - 1, Math.max(0, n)));
    },

    fetch() {
      const layers = ["image", "labels", ...(this.layout === "compare" ? ["other"] : [])];
      const planes = this.panes.map((pane) => pane.plane).filter((p, i, all) => all.indexOf(p) === i);
      const wanted = [];
      for (const plane of planes) for (const layer of layers) wanted.push([layer, plane, this.level(plane)]);
      const steps = [];
      for (let n = 1; n <= AHEAD; n++) steps.push(n * this.ahead, ...(n <= 2 ? [-n * this.ahead] : []));
      const moving = this.active && planes.includes(this.active) ? this.active : planes[0];
      for (const step of moving ? steps : []) {
        const level = this.level(moving) + step;
        if (level < 0 || level >= this.count(moving)) continue;
        for (const layer of layers) wanted.push([layer, moving, level]);
      }
      this.cache.want(wanted);
    },

    // ---- drawing

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

    // ---- pointer and keys

    place(event, pane) {
      const box = this.canvas(pane).getBoundingClientRect();
      const [x, y] = [event.clientX - box.left, event.clientY - box.top];
      const [column, row] = this.viewOf(pane).toPixel(x, y);
      return { pane: pane.id, x, y, column, row };
    },

    onDown(event, pane) {
      const canvas = this.canvas(pane);
      canvas.focus({ preventScroll: true });
      canvas.setPointerCapture(event.pointerId);
      this.active = pane.plane;
      this.pointer = this.place(event, pane);
      const paints = this.tool !== "look" && pane.layer === "labels" && !this.busy;
      if (event.button === 2) this.drag = "window";
      else if (event.button === 1 || event.shiftKey) this.drag = "pan";
      else if (paints) this.beginStroke(pane);
      else this.drag = "crosshair";
      this.onMove(event, pane);
      event.preventDefault();
    },

    onMove(event, pane) {
      const last = this.pointer, here = (this.pointer = this.place(event, pane));
      const [dx, dy] = last ? [here.x - last.x, here.y - last.y] : [0, 0];
      if (this.drag === "pan") this.views[pane.plane].pan(dx, dy);
      else if (this.drag === "window") this.moveWindow(dx, dy);
      else if (this.drag === "crosshair") {
        this.cursor = this.voxel(pane.plane, Math.floor(here.column), Math.floor(here.row));
      } else if (this.stroke) this.continueStroke(event, pane);
      this.read(pane, here);
      this.draw();
    },

    onUp() {
      this.drag = null;
      if (this.stroke) this.endStroke();
    },

    onLeaveCanvas() {
      this.pointer = null;
      this.readout = "";
      this.draw();
    },

    onWheel(event, pane) {
      this.active = pane.plane;
      const lines = event.deltaMode === 1 ? 40 : 1;
      if (event.ctrlKey) {
        const { x, y } = this.place(event, pane);
        this.viewOf(pane).zoomAt(Math.exp((-event.deltaY * lines) / 400), x, y);
        return this.draw();
      }
      this.turned = (this.turned ?? 0) - event.deltaY * lines;
      const steps = Math.trunc(this.turned / 40);
      if (!steps) return;
      this.turned -= steps * 40;
      this.setLevel(pane.plane, this.level(pane.plane) + (Math.abs(event.deltaY) >= 100 ? Math.sign(steps) : steps));
      if (Math.abs(event.deltaY) >= 100) this.turned = 0; // a wheel with notches: a slice a notch
    },

    onKey(event, pane) {
      const control = event.ctrlKey || event.metaKey;
      const level = this.level(pane.plane), view = this.views[pane.plane];
      const actions = {
        ArrowUp: () => this.setLevel(pane.plane, level + 1),
        ArrowRight: () => this.setLevel(pane.plane, level + 1),
        ArrowDown: () => this.setLevel(pane.plane, level - 1),
        ArrowLeft: () => this.setLevel(pane.plane, level - 1),
        PageUp: () => this.setLevel(pane.plane, level + 10),
        PageDown: () => this.setLevel(pane.plane, level - 10),
        Home: () => this.setLevel(pane.plane, 0),
        End: () => this.setLevel(pane.plane, this.count(pane.plane) - 1),
        "+": () => view.zoomAt(1.25, view.width / 2, view.height / 2),
        "-": () => view.zoomAt(0.8, view.width / 2, view.height / 2),
        0: () => this.fit(),
        " ": () => (this.show = this.show === "scan" ? "both" : "scan"),
        o: () => (this.contours = !this.contours),
        "[": () => (this.radius = Math.max(0.5, this.radius - 0.5)),
        "]": () => (this.radius = Math.min(40, this.radius + 0.5)),
        "?": () => (this.help = true),
        ...(this.editable && {
          b: () => (this.tool = "paint"), e: () => (this.tool = "erase"), n: () => (this.tool = "look"),
        }),
        ...Object.fromEntries(this.layouts.map(({ value }, i) => [i + 1, () => (this.layout = value)])),
      };
      const undo = { z: () => this.ask(event.shiftKey ? "redo" : "undo"), y: () => this.ask("redo") };
      const action = control ? this.editable && undo[event.key.toLowerCase()] : actions[event.key];
      if (!action) return;
      event.preventDefault();
      this.active = pane.plane;
      action();
      this.draw();
    },

    moveWindow(dx, dy) {
      const span = this.facts.top - this.facts.low, { min, max } = this.greys;
      const level = (min + max) / 2 - (dy * span) / 800, width = Math.max(span / 500, max - min + (dx * span) / 400);
      this.greys = { min: level - width / 2, max: level + width / 2 };
    },

    resetWindow() { this.greys = { min: this.facts.window[0], max: this.facts.window[1] }; },

    fit() {
      for (const plane of PLANES) this.views[plane].reset();
      this.bones.reset();
      this.draw();
    },

    read(pane, { column, row }) {
      const view = this.views[pane.plane], at = [Math.floor(column), Math.floor(row)];
      if (at.some((n, i) => n < 0 || n >= view.pixels[i])) return (this.readout = "");
      const index = this.voxel(pane.plane, ...at);
      const words = this.world(index).map((v, i) => `${(v < 0 ? "LPI" : "RAS")[i]} ${Math.abs(v).toFixed(1)}`);
      const offset = at[1] * view.pixels[0] + at[0], level = this.level(pane.plane);
      const stored = this.cache.get("image", pane.plane, level)?.[offset];
      const layer = pane.layer === "other" ? "other" : "labels";
      const label = this.cache.get(layer, pane.plane, level)?.[offset];
      const value = stored === undefined ? "" : `value ${+(this.facts.low + stored * this.facts.step).toPrecision(5)}`;
      const name = this.facts.bones.find((bone) => bone.value === label)?.name ?? "";
      this.readout = [`${words.join("  ")} mm`, value, name].filter(Boolean).join("   ·   ");
    },

    // ---- bones

    toggle(value) {
      this.hidden = this.hidden.includes(value) ? this.hidden.filter((v) => v !== value) : [...this.hidden, value];
      this.tellShown();
    },
    // One bone alone; again: all.
    only(value) {
      const others = this.facts.bones.map((b) => b.value).filter((v) => v !== value);
      const alone = others.every((v) => this.hidden.includes(v)) && !this.hidden.includes(value);
      this.hidden = alone ? [] : others;
      this.bone = value;
      this.tellShown();
    },
    tellShown() { this.bones.show(this.facts.bones.map((b) => b.value).filter((v) => !this.hidden.includes(v))); },

    // ---- painting

    beginStroke(pane) {
      this.stroke = {
        plane: pane.plane, level: this.level(pane.plane), points: [], radius_mm: this.radius, value: this.bone,
        erase: this.tool === "erase", over: this.over,
      };
      if (this.hidden.includes(this.bone)) this.toggle(this.bone);
    },

    continueStroke(event, pane) {
      const { stroke } = this, from = stroke.points.length, view = this.views[pane.plane];
      for (const part of event.getCoalescedEvents?.().length ? event.getCoalescedEvents() : [event]) {
        const { column, row } = this.place(part, pane);
        stroke.points.push([+(column - 0.5).toFixed(2), +(row - 0.5).toFixed(2)]);
      }
      const labels = this.cache.get("labels", stroke.plane, stroke.level);
      if (!labels) return;
      paintLine(labels, ...view.pixels, view.mm, stroke, from);
      for (const tools of this.layers.values()) {
        tools.labels.forget();
        tools.outlined = null;
      }
    },

    endStroke() {
      this.$emit("edit", { kind: "stroke", ...this.stroke });
      this.stroke = null;
      if (!this.outdated) return;
      this.outdated = false;
      this.cache.outdate("labels");
    },

    ask(kind) {
      if (this.busy) return;
      if (kind === "fill" || kind === "save") this.busy = kind;
      this.$emit("edit", { kind, plane: this.active ?? "axial", value: this.bone, over: this.over });
    },

    // ---- the picture

    savePicture() {
      const canvases = [...this.panes.map((pane) => this.canvas(pane)), this.$refs.bones].filter((c) => c?.clientWidth);
      const boxes = canvases.map((canvas) => canvas.getBoundingClientRect()), ratio = window.devicePixelRatio || 1;
      const [left, top] = [Math.min(...boxes.map((b) => b.left)), Math.min(...boxes.map((b) => b.top))];
      const page = document.createElement("canvas");
      page.width = (Math.max(...boxes.map((b) => b.right)) - left) * ratio;
      page.height = (Math.max(...boxes.map((b) => b.bottom)) - top) * ratio;
      const context = page.getContext("2d");
      context.fillStyle = "#0d1117";
      context.fillRect(0, 0, page.width, page.height);
      canvases.forEach((canvas, i) =>
        context.drawImage(canvas, (boxes[i].left - left) * ratio, (boxes[i].top - top) * ratio));
      const link = document.createElement("a");
      const plane = this.layout === "compare" ? this.comparedPlane : this.layout;
      const where = PLANES.includes(plane) ? `${plane}-${this.stored(plane)}` : plane;
      link.download = `${this.facts.name}_${where}.png`;
      page.toBlob((blob) => {
        link.href = URL.createObjectURL(blob);
        link.click();
        setTimeout(() => URL.revokeObjectURL(link.href), 10000);
      });
    },

    capital(text) { return text.charAt(0).toUpperCase() + text.slice(1); },
  },
};
