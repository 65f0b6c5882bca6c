import { get, post } from './api.ts'

/** Who looks at the page. `by` null: nobody has logged in, and somebody has to. */
export interface Session {
  readonly name: string | null
  readonly role: 'admin' | 'viewer' | null
  readonly by: 'token' | 'session' | 'machine' | null
}

export function whoAmI(): Promise<Session> {
  return get<Session>('/api/v1/session')
}

export function logIn(token: string): Promise<Session> {
  return post<Session>('/api/v1/login', { token })
}

export function logOut(): Promise<Session> {
  return post<Session>('/api/v1/logout')
}
