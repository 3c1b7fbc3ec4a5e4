// Surfaces of bones in 3D, drawn when something has changed and only then: a page that draws all the time is
// slow where there is no graphics card.

const VERTEX = `#version 300 es
in vec3 place; in vec3 normal;
uniform mat3 turn; uniform vec3 target; uniform vec4 lens; // distance, x and y scale, far
out vec3 facing;
void main() {
  vec3 p = turn * (place - target) - vec3(0, 0, lens.x);
  float near = lens.w / 1000.0;
  facing = turn * normal;
  gl_Position = vec4(p.xy * lens.yz, (p.z * (lens.w + near) + 2.0 * lens.w * near) / (near - lens.w), -p.z);
}`;
const FRAGMENT = `#version 300 es
precision highp float;
in vec3 facing; uniform vec3 colour; uniform float lit; out vec4 pixel;
void main() {
  vec3 n = normalize(facing) * (gl_FrontFacing ? 1.0 : -1.0);
  float light = 0.22 + 0.70 * max(dot(n, normalize(vec3(-0.4, 0.55, 0.75))), 0.0) + 0.14 * max(dot(n, vec3(0.8, -0.2, 0.5)), 0.0);
  float gloss = 0.16 * pow(max(dot(n, normalize(vec3(-0.22, 0.3, 0.93))), 0.0), 22.0);
  pixel = vec4(mix(colour, colour * light + gloss, lit), 1);
}`;
const FIELD = Math.tan((15 * Math.PI) / 180); // half of the field of view
const LETTERS = [["R", [1, 0, 0]], ["L", [-1, 0, 0]], ["A", [0, 1, 0]], ["P", [0, -1, 0]], ["S", [0, 0, 1]], ["I", [0, 0, -1]]];

// Points and triangles of a surface as the server packs them: counts, then RAS+ mm, then indices.
export function unpack(buffer) {
  const [points, faces] = new Uint32Array(buffer, 0, 2);
  return { places: new Float32Array(buffer, 8, 3 * points), faces: new Uint32Array(buffer, 8 + 12 * points, 3 * faces) };
}

function normals(places, faces) {
  const sums = new Float32Array(places.length);
  for (let n = 0; n < faces.length; n += 3) {
    const [a, b, c] = [3 * faces[n], 3 * faces[n + 1], 3 * faces[n + 2]];
    const ux = places[b] - places[a], uy = places[b + 1] - places[a + 1], uz = places[b + 2] - places[a + 2];
    const vx = places[c] - places[a], vy = places[c + 1] - places[a + 1], vz = places[c + 2] - places[a + 2];
    const x = uy * vz - uz * vy, y = uz * vx - ux * vz, z = ux * vy - uy * vx;
    for (const corner of [a, b, c]) {
      sums[corner] += x;
      sums[corner + 1] += y;
      sums[corner + 2] += z;
    }
  }
  return sums;
}

function extent(places, axis) {
  let [low, high] = [Infinity, -Infinity];
  for (let n = axis; n < places.length; n += 3) {
    low = Math.min(low, places[n]);
    high = Math.max(high, places[n]);
  }
  return [low, high];
}

export class BoneView {
  // canvas: where it is seen; size: mm that must fit in, [across, high]. Coordinates are RAS+ mm from a middle.
  constructor(canvas, size) {
    Object.assign(this, { canvas, size, bones: new Map(), cross: null, home: [0, 0, 0] });
    this.hidden = document.createElement("canvas"); // WebGL; copied, so that letters and saved pictures are simple
    const gl = (this.gl = this.hidden.getContext("webgl2", { antialias: true, alpha: true }));
    if (gl) this.prepare(gl);
    this.reset();
    this.listen();
  }

  prepare(gl) {
    const program = (this.program = gl.createProgram());
    for (const [kind, text] of [[gl.VERTEX_SHADER, VERTEX], [gl.FRAGMENT_SHADER, FRAGMENT]]) {
      const shader = gl.createShader(kind);
      gl.shaderSource(shader, text);
      gl.compileShader(shader);
      gl.attachShader(program, shader);
    }
    gl.linkProgram(program);
    gl.useProgram(program);
    this.at = (name) => gl.getUniformLocation(program, name);
    gl.enable(gl.DEPTH_TEST);
    gl.clearColor(0, 0, 0, 0);
    this.crossBuffer = gl.createBuffer();
  }

  set(id, { places, faces }, colour) {
    this.remove(id);
    const gl = this.gl;
    if (!gl || !faces.length) return this.draw();
    const array = gl.createVertexArray();
    gl.bindVertexArray(array);
    const buffers = [places, normals(places, faces)].map((data, i) => {
      const buffer = gl.createBuffer(), where = gl.getAttribLocation(this.program, ["place", "normal"][i]);
      gl.bindBuffer(gl.ARRAY_BUFFER, buffer);
      gl.bufferData(gl.ARRAY_BUFFER, data, gl.STATIC_DRAW);
      gl.enableVertexAttribArray(where);
      gl.vertexAttribPointer(where, 3, gl.FLOAT, false, 0, 0);
      return buffer;
    });
    buffers.push(gl.createBuffer());
    gl.bindBuffer(gl.ELEMENT_ARRAY_BUFFER, buffers[2]);
    gl.bufferData(gl.ELEMENT_ARRAY_BUFFER, faces, gl.STATIC_DRAW);
    const box = [0, 1, 2].map((axis) => extent(places, axis));
    this.bones.set(id, { array, buffers, box, count: faces.length, colour: colour.map((c) => c / 255), shown: true });
    this.draw();
  }

  remove(id) {
    const bone = this.bones.get(id);
    if (!bone) return;
    this.gl.deleteVertexArray(bone.array);
    for (const buffer of bone.buffers) this.gl.deleteBuffer(buffer);
    this.bones.delete(id);
  }

  show(ids) {
    for (const [id, bone] of this.bones) bone.shown = ids.includes(id);
    this.draw();
  }

  // Lines through a point, of a length along each axis.
  mark(point, lengths) {
    this.cross = point && [0, 1, 2].flatMap((axis) => [-1, 1].map((sign) =>
      point.map((v, i) => (i === axis ? (sign * lengths[i]) / 2 : v)))).flat();
    this.draw();
  }

  // Let the bones that are there fill the picture.
  fit() {
    const boxes = [...this.bones.values()].map(({ box }) => box);
    if (!boxes.length) return;
    const whole = [0, 1, 2].map((axis) => [Math.min(...boxes.map((b) => b[axis][0])), Math.max(...boxes.map((b) => b[axis][1]))]);
    const [wide, deep, tall] = whole.map(([low, high]) => high - low);
    this.size = [Math.max(wide, deep), tall];
    this.home = whole.map(([low, high]) => (low + high) / 2);
    this.reset();
  }

  // From the front: the patient's right is on the left of the picture.
  reset() {
    Object.assign(this, { yaw: 0, pitch: 0, zoom: 1, target: this.home });
    this.draw();
  }

  // Rows: to the right of the picture, up, towards the eye.
  get axes() {
    const [ca, sa, cb, sb] = [Math.cos(this.yaw), Math.sin(this.yaw), Math.cos(this.pitch), Math.sin(this.pitch)];
    return [[-ca, -sa, 0], [sa * sb, -ca * sb, cb], [-sa * cb, ca * cb, sb]];
  }

  get distance() {
    const { clientWidth: w, clientHeight: h } = this.canvas;
    return (1.05 / this.zoom / FIELD) * Math.max(this.size[1] / 2, ((this.size[0] / 2) * h) / Math.max(w, 1)) + this.size[0] / 2;
  }

  draw() {
    this.frame ??= requestAnimationFrame(() => {
      this.frame = undefined;
      this.drawNow();
    });
  }

  drawNow() {
    const { canvas, hidden, gl } = this, ratio = window.devicePixelRatio || 1;
    const [w, h] = [canvas.clientWidth, canvas.clientHeight];
    if (!w || !h) return;
    for (const one of [canvas, hidden]) {
      if (one.width !== Math.round(w * ratio)) one.width = Math.round(w * ratio);
      if (one.height !== Math.round(h * ratio)) one.height = Math.round(h * ratio);
    }
    const context = canvas.getContext("2d");
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.fillStyle = "#000";
    context.fillRect(0, 0, canvas.width, canvas.height);
    if (gl) {
      this.render(w / h);
      context.drawImage(hidden, 0, 0);
    }
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    this.drawLetters(context, w, h);
    if (gl) return;
    context.fillStyle = "#97a5b4";
    context.textAlign = "center";
    context.fillText("This browser cannot draw in 3D (WebGL is off).", w / 2, h / 2);
  }

  render(aspect) {
    const { gl } = this, axes = this.axes, distance = this.distance;
    gl.viewport(0, 0, this.hidden.width, this.hidden.height);
    gl.clear(gl.COLOR_BUFFER_BIT | gl.DEPTH_BUFFER_BIT);
    gl.uniformMatrix3fv(this.at("turn"), false, [0, 1, 2].flatMap((column) => axes.map((row) => row[column])));
    gl.uniform3fv(this.at("target"), this.target);
    gl.uniform4f(this.at("lens"), distance, 1 / FIELD / aspect, 1 / FIELD, distance + 3 * Math.max(...this.size));
    gl.uniform1f(this.at("lit"), 1);
    for (const bone of this.bones.values()) {
      if (!bone.shown) continue;
      gl.bindVertexArray(bone.array);
      gl.uniform3fv(this.at("colour"), bone.colour);
      gl.drawElements(gl.TRIANGLES, bone.count, gl.UNSIGNED_INT, 0);
    }
    if (!this.cross) return;
    gl.bindVertexArray(null);
    const place = gl.getAttribLocation(this.program, "place");
    gl.disableVertexAttribArray(gl.getAttribLocation(this.program, "normal"));
    gl.bindBuffer(gl.ARRAY_BUFFER, this.crossBuffer);
    gl.bufferData(gl.ARRAY_BUFFER, new Float32Array(this.cross), gl.DYNAMIC_DRAW);
    gl.enableVertexAttribArray(place);
    gl.vertexAttribPointer(place, 3, gl.FLOAT, false, 0, 0);
    gl.uniform1f(this.at("lit"), 0);
    gl.uniform3f(this.at("colour"), 0.45, 0.62, 0.78);
    gl.drawArrays(gl.LINES, 0, 6);
  }

  drawLetters(context, w, h) {
    const [right, up] = this.axes, dot = (a, b) => a.reduce((sum, v, i) => sum + v * b[i], 0);
    context.font = "600 13px system-ui, sans-serif";
    context.textAlign = "center";
    context.textBaseline = "middle";
    for (const [letter, axis] of LETTERS) {
      const x = dot(axis, right), y = dot(axis, up), length = Math.hypot(x, y);
      if (length < 0.3) continue;
      const far = Math.min((w / 2 - 14) / Math.max(Math.abs(x), 1e-6), (h / 2 - 14) / Math.max(Math.abs(y), 1e-6));
      context.fillStyle = `rgba(230, 237, 243, ${Math.min(1, length)})`;
      context.fillText(letter, w / 2 + x * far, h / 2 - y * far);
    }
  }

  // ---- pointer and keys

  listen() {
    const { canvas } = this;
    let last = null;
    canvas.addEventListener("pointerdown", (event) => {
      canvas.setPointerCapture(event.pointerId);
      canvas.focus({ preventScroll: true });
      last = event;
      event.preventDefault();
    });
    canvas.addEventListener("pointermove", (event) => {
      if (!last) return;
      const [dx, dy] = [event.clientX - last.clientX, event.clientY - last.clientY];
      const moves = event.shiftKey || event.buttons & 6;
      last = event;
      if (moves) this.pan(dx, dy);
      else this.turn(dx / 150, dy / 150);
    });
    for (const name of ["pointerup", "pointercancel"]) canvas.addEventListener(name, () => (last = null));
    canvas.addEventListener("contextmenu", (event) => event.preventDefault());
    canvas.addEventListener("wheel", (event) => {
      event.preventDefault();
      this.zoomBy(Math.exp(-event.deltaY / (event.deltaMode === 1 ? 12 : 500)));
    }, { passive: false });
    canvas.addEventListener("keydown", (event) => {
      const action = {
        ArrowLeft: () => this.turn(-0.15, 0), ArrowRight: () => this.turn(0.15, 0), ArrowUp: () => this.turn(0, -0.15),
        ArrowDown: () => this.turn(0, 0.15), "+": () => this.zoomBy(1.2), "-": () => this.zoomBy(1 / 1.2), 0: () => this.reset(),
      }[event.key];
      if (!action) return;
      event.preventDefault();
      action();
    });
  }

  turn(yaw, pitch) {
    this.yaw -= yaw;
    this.pitch = Math.max(-1.55, Math.min(1.55, this.pitch + pitch));
    this.draw();
  }

  zoomBy(factor) {
    this.zoom = Math.min(20, Math.max(0.4, this.zoom * factor));
    this.draw();
  }

  pan(dx, dy) {
    const [right, up] = this.axes, mm = (2 * FIELD * this.distance) / Math.max(this.canvas.clientHeight, 1);
    this.target = this.target.map((v, i) => v - mm * (dx * right[i] - dy * up[i]));
    this.draw();
  }
}
