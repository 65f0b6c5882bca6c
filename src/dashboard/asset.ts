/** A file of the page, ready to be sent. */
export interface Asset {
  /** Without a folder. */
  readonly name: string
  readonly type: string
  readonly plain: Uint8Array
  readonly brotli: Uint8Array
  readonly gzip: Uint8Array
  /** With its quotes. */
  readonly etag: string
}
