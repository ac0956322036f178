;; A component as other tool chains make them: it exports more than a host calls, and imports WASI 0.2 in two versions at
;; once. Its handler answers with the payload.
(component
  (import "astrid:bus/types@0.1.0" (instance $types
    (type $code-of (enum "invalid" "denied" "not-found" "conflict" "unavailable" "internal"))
    (export "refusal-code" (type $code (eq $code-of)))
    (type $refusal-of (record (field "code" $code) (field "reason" string)))
    (export "refusal" (type $refusal (eq $refusal-of)))
    (type $message-of (record
      (field "id" u64)
      (field "topic" string)
      (field "principal" string)
      (field "sender" string)
      (field "target" (option string))
      (field "remaining-ms" u32)
      (field "streams" bool)
      (field "cause" (option string))
      (field "traceparent" (option string))
      (field "payload" (list u8))))
    (export "message" (type $message (eq $message-of)))))
  (alias export $types "refusal" (type $refusal))
  (alias export $types "message" (type $message))
  (import "wasi:clocks/monotonic-clock@0.2.3" (instance $clock
    (export "now" (func (result u64)))))
  (import "wasi:random/insecure@0.2.3" (instance $random
    (export "get-insecure-random-u64" (func (result u64)))))
  (import "wasi:random/insecure@0.2.12" (instance $random-later
    (export "get-insecure-random-u64" (func (result u64)))))
  (core func $now (canon lower (func $clock "now")))
  (core func $draw (canon lower (func $random "get-insecure-random-u64")))
  (core func $draw-later (canon lower (func $random-later "get-insecure-random-u64")))
  (core module $code
    (import "wasi" "now" (func $now (result i64)))
    (import "wasi" "draw" (func $draw (result i64)))
    (import "wasi" "draw-later" (func $draw-later (result i64)))
    (memory (export "memory") 20)
    ;; The first 16 bytes hold the answer.
    (global $free (mut i32) (i32.const 16))
    (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
      (local $at i32)
      (local.set $at (i32.and (i32.add (global.get $free) (i32.const 15)) (i32.const -16)))
      (global.set $free (i32.add (local.get $at) (local.get 3)))
      (local.get $at))
    (func (export "init")
      (drop (call $now)))
    ;; More than sixteen values: they lie in memory, the message 8 bytes in, its payload 76 bytes in that.
    (func (export "handle") (param $values i32) (result i32)
      (drop (call $draw))
      (drop (call $draw-later))
      (i32.store (i32.const 0) (i32.const 0))
      (i32.store (i32.const 4) (i32.load (i32.add (local.get $values) (i32.const 84))))
      (i32.store (i32.const 8) (i32.load (i32.add (local.get $values) (i32.const 88))))
      (i32.const 0)))
  (core instance $wasi
    (export "now" (func $now))
    (export "draw" (func $draw))
    (export "draw-later" (func $draw-later)))
  (core instance $instance (instantiate $code (with "wasi" (instance $wasi))))
  (alias core export $instance "memory" (core memory $memory))
  (func $handle
    (param "handler" string) (param "message" $message) (result (result (list u8) (error $refusal)))
    (canon lift (core func $instance "handle") (memory $memory) (realloc (func $instance "cabi_realloc"))))
  (func $init (canon lift (core func $instance "init")))
  (instance $handler (export "handle" (func $handle)))
  (instance $exports (export "init" (func $init)))
  (export "astrid:bus/handler@0.1.0" (instance $handler))
  (export "init" (func $init))
  (export "exports" (instance $exports)))
